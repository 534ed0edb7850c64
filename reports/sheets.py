"""This module says which measures stand in which table of a group, and which of them are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from xeval.reports.collect import Group
from xeval.reports.costs import cost_measures
from xeval.reports.rows import Rows
from xeval.reports.schema import Subset
from xeval.reports.summary import (
    Measure,
    column_label,
    column_measure,
    controls,
    embedding_measures,
    gain_measure,
    model_measures,
    real_explainers,
    relabel,
)

#: The headline table has these columns after the primary ones, where they were scored.
HEADLINE_EXTRAS = ("complexity.entropy", "ssim.value")
#: Papers print these columns although they have no direction; the others without one are diagnostics.
SHOWN_UNRANKED = frozenset({"infidelity.beta", "infidelity.raw"})
HEADLINE = "headline"
MASKED_SHARE = ("drop.rate", "drop.mag", "increase.rate", "increase.mag")


@dataclass(frozen=True)
class Sheet:
    """A sheet says what a table will hold."""

    name: str
    title: str
    measures: Sequence[Measure]
    about: str = ""
    controls: bool = True


#: Each subset besides the protocol's own has a name, a title and what the caption adds.
STRATA: tuple[tuple[Subset, str, str], ...] = (
    ("all", "All images", " Over all images, whether classified correctly or not."),
    (
        "correct",
        "Correctly classified images only",
        " Over the images that each checkpoint classifies correctly, so the images differ between rows.",
    ),
    (
        "correct-under-all",
        "Images that every checkpoint classifies correctly",
        " Over the images that all compared checkpoints classify correctly, the same for every row.",
    ),
)

#: What a caption adds instead where the rows are explainers, which share their checkpoint's images.
OF_EXPLAINERS: dict[Subset, str] = {
    "correct": " Over the images that the checkpoint classifies correctly, the same for all of its rows."
}


def sheets(group: Group, primary: Sequence[str], rows: Rows = "methods", columns: Sequence[str] = ()) -> list[Sheet]:
    """Return the tables whose rows are methods or explainers, in print order; some may be empty.

    ``columns`` are those of the headline table, where they are chosen.
    """
    chosen = [measures_by_name(group)[key] for key in columns]
    return [
        Sheet(HEADLINE, "Headline", chosen or headline_measures(group, primary, rows)),
        Sheet("drop-increase", "Drop and increase of confidence", masked_measures(group)),
        Sheet("faithfulness", "Faithfulness", _ranked(group, faithful=True)),
        Sheet("complexity-continuity", "Complexity and continuity", _ranked(group, faithful=False)),
        *(
            Sheet(
                f"gain-over-{floor}", f"Gain over {floor} on the same checkpoint", _gains(group, floor), controls=False
            )
            for floor in _floors(group)
        ),
        Sheet("diagnostics", "Diagnostics, never ranked", _unranked(group)),
        *_strata(group, primary, rows),
    ]


def compared(group: Group, primary: Sequence[str], *, networks: bool) -> list[Measure]:
    """Return all measures that any table ranks, those of the networks themselves only where ``networks``."""
    found = [*headline_measures(group, primary), *masked_measures(group)]
    found += [measure for floor in _floors(group) for measure in _gains(group, floor)]
    found += [*_ranked(group, faithful=True), *_ranked(group, faithful=False)]
    chosen = [measure for measure in found if measure.family != "model"]
    chosen += [*model_measures(), *embedding_measures()] if networks else []
    return [measure for measure in chosen if measure.direction is not None]


def headline_measures(group: Group, primary: Sequence[str], rows: Rows = "methods") -> list[Measure]:
    """Return accuracy, the primary columns (the first with its gain over random-cam), complexity and continuity.

    Explainers share the network and its accuracy: in its place stands, at the end, what their maps cost.
    """
    measures = [model_measures()[0]] if rows == "methods" else []
    for column, key in enumerate(primary):
        base = column_measure(group, key)
        measures.append(base)
        if column == 0 and base.direction and "random-cam" in controls(group):
            measures.append(relabel(gain_measure(base, "random-cam"), "gain over random-cam"))
    extras = [key for key in HEADLINE_EXTRAS if key in group.first.scores.columns and key not in primary]
    measures += [column_measure(group, key) for key in extras]
    return measures if rows == "methods" else measures + cost_measures(group)


def measures_by_name(group: Group) -> dict[str, Measure]:
    """Return everything that a column can be, by its key: scored columns, the networks' own, gains over controls."""
    scored = [column_measure(group, key) for key in group.first.scores.columns]
    gains = [
        relabel(gain_measure(one, floor), f"{one.label}, gain over {floor}")
        for floor in _floors(group)
        for one in scored
        if one.direction
    ]
    return {one.key: one for one in [*model_measures(), *scored, *embedding_measures(), *gains]}


def masked_measures(group: Group) -> list[Measure]:
    """Return rate and magnitude of drop and increase by the share of pixels kept, in the order they were scored."""
    found = [key.partition("@")[::2] for key in group.first.scores.columns]
    thresholds = dict.fromkeys(q for name, q in found if name in MASKED_SHARE)
    return [
        relabel(column_measure(group, f"{name}@{q}"), name.replace(".", " "), _kept(q))
        for q in thresholds
        for name in MASKED_SHARE
        if (name, q) in found
    ]


def _kept(threshold: str) -> str:
    """Return the heading above one threshold's columns; a mask without a threshold has its name there."""
    words = column_label(f"@{threshold}").strip()
    return f"{words} of pixels kept" if words.endswith("%") else f"{words} mask"


def _others(group: Group) -> list[Measure]:
    keys = [key for key in group.first.scores.columns if key.partition("@")[0] not in MASKED_SHARE]
    return [column_measure(group, key) for key in keys]


def _ranked(group: Group, *, faithful: bool) -> list[Measure]:
    return [m for m in _others(group) if _is_shown(m) and (m.family == "faithfulness") is faithful]


def _unranked(group: Group) -> list[Measure]:
    return [measure for measure in _others(group) if not _is_shown(measure)]


def _is_shown(measure: Measure) -> bool:
    return measure.direction is not None or measure.key in SHOWN_UNRANKED


def _floors(group: Group) -> list[str]:
    """Return the random controls that were scored."""
    return [name for name in ("random", "random-cam") if name in controls(group)]


def _gains(group: Group, floor: str) -> list[Measure]:
    """Return the gain over a random control for the magnitudes of faithfulness that have a direction."""
    keys = [key for key in group.first.scores.columns if ".rate@" not in key]
    bases = [m for m in (column_measure(group, key) for key in keys) if m.family == "faithfulness" and m.direction]
    return [relabel(gain_measure(base, floor), base.label) for base in bases]


def _strata(group: Group, primary: Sequence[str], rows: Rows) -> Iterator[Sheet]:
    """Yield tables of the primary columns over the other subsets of the images."""
    for subset, title, about in STRATA:
        alone = rows == "explainers" and len(group.runs) == 1
        unknown = subset == "correct-under-all" and (alone or group.correct_under_all is None)
        if subset != group.subset and not unknown:
            measures = [_stratum(column_measure(group, key, subset), subset) for key in primary]
            filled = [
                m for m in measures if any(m.read(run, e).n for run in group.runs for e in real_explainers(group))
            ]
            told = OF_EXPLAINERS.get(subset, about) if rows == "explainers" else about
            yield Sheet(f"{subset}-only" if subset == "correct" else subset, title, filled, told, controls=False)


def _stratum(measure: Measure, subset: Subset) -> Measure:
    return replace(measure, key=f"{subset}.{measure.key}", family="stratum")
