"""Finds what keeps scores from being complete: errors, values that are not finite, and unexpected undefined values.

Exit 0 means that every requested number is on disk, finite and counted. A reason in ``EXPECTED_REASONS`` (an empty map,
a changed prediction) is counted and shown as n < N. Any other reason is tolerated for one image in a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xeval.errors import DataError, PartialError, XevalError
from xeval.metrics.metric import EXPECTED_REASONS
from xeval.scoring.store import Series

SHARE = 0.01
NAMED = 3


def missing_values(series: Series, what: str, ids: Sequence[str]) -> str | None:
    """Return a sentence about the images for which ``what`` lacks a value, None where there are none or few enough."""
    errors = series.counts("error")
    odd = {text: n for text, n in series.counts("undefined").items() if text not in EXPECTED_REASONS}
    if not errors and sum(odd.values()) <= SHARE * len(series.status):
        return None
    named = [ids[i] for i in np.flatnonzero(_without(series, {*errors, *odd}))[:NAMED]]
    counts = ", ".join(f"{text}: {n}" for text, n in {**odd, **errors}.items())
    lost = sum(errors.values()) + sum(odd.values())
    return f"{what} has no value for {lost:,} of {len(series.status):,} images ({counts}), first {', '.join(named)}"


def _without(series: Series, texts: set[str]) -> Any:
    codes = [code for code, (_, text) in series.meaning.items() if text in texts]
    return np.isin(series.status, codes)


def shortfall(summary: Mapping[str, Any], *, allowed: bool) -> XevalError | None:
    """Return the error for a summary with gaps: exit 3, or 7 where ``allowed``; None where it is complete."""
    problems = summary["problems"]
    if not problems:
        return None
    more = f", and {len(problems) - 1} more gaps" if len(problems) > 1 else ""
    text = f"{summary['checkpoint']['name']}: {problems[0]}{more}"
    if allowed:
        return PartialError(text, "accepted by --allow-partial; all of them stand under problems in scores.json")
    return DataError(text, "see problems in scores.json; accept them with --allow-partial")
