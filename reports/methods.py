"""The methods paragraph of a paper, written from what was done, and the references it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xeval.reports.captions import place
from xeval.reports.collect import Group
from xeval.reports.declaration import Declaration
from xeval.reports.summary import controls, real_explainers
from xeval.reports.text import clean, latex, listed
from xeval.statistics.floor import EVENTS_FOR_P, IMAGES_FOR_P
from xeval.statistics.intervals import SEEDS_FOR_INTERVAL, SEEDS_FOR_P

FILE = Path(__file__).parent / "references.bib"
_ENTRY = re.compile(r"@\w+\{(?P<key>\w+), cited = \{(?P<cited>.*?)\},\n.*?\}\}\n", re.DOTALL)


@dataclass(frozen=True)
class Methods:
    """The paragraph as plain text and as LaTeX with \\cite, and the BibTeX entries it cites."""

    text: str
    tex: str
    bib: str


@cache
def references() -> dict[str, tuple[str, str]]:
    """Return what the registry cites, in lower case → key and entry."""
    found = {}
    for match in _ENTRY.finditer(FILE.read_text(encoding="utf-8")):
        entry = match[0].replace(f" cited = {{{match['cited']}}},", "")
        found[match["cited"].lower()] = (match["key"], entry)
    return found


def keys_of(citation: str) -> list[str]:
    """Return the known keys of a citation such as ``Bach et al., PLoS ONE 2015; Montavon et al., 2019``."""
    parts = (re.sub(r"\s*\(.*?\)", "", part).strip().lower() for part in citation.split(";"))
    return [references()[part][0] for part in parts if part in references()]


def methods(group: Group, declaration: Declaration, explainer: str | None = None) -> Methods:
    """Write what was measured on what, how, and how it was compared; every clause is computed from the runs.

    Methods are compared with the declared one or, where ``explainer`` is given, explainers with it.
    """
    scores = group.first.scores
    cited: list[str] = []

    def cite(citation: str) -> str:
        keys = keys_of(citation)
        cited.extend(keys)
        return "".join(f" [{key}]" for key in keys)

    explainers = listed(f"{clean(name)}{cite(scores.explainers[name].citation)}" for name in real_explainers(group))
    metrics: dict[str, str] = {}
    for column in scores.columns.values():
        if column.metric not in metrics:
            metrics[column.metric] = f"{clean(column.metric)}{cite(column.citation)}"
    sentences = [
        f"Explanations were scored with xeval {clean(str(scores.provenance.get('xeval', '')))} under its protocol "
        f"{clean(scores.protocol.name)} (version {scores.protocol.version}, hash {scores.protocol.hash[:12]}) on "
        f"{clean(place(group), 300)}.",
        f"The explanations are {explainers} at {_layer(group)} of {_models(group, told=explainer is None)}.",
        _training(group),
        f"The metrics were {listed(metrics.values())}.",
        f"Control maps on the same checkpoints ({listed(map(clean, controls(group)))}) are reported beside them."
        if controls(group)
        else "",
        *(f"Convention: {clean(line, 500)}." for line in group.conventions),
        _statistics(group, declaration) if explainer is None else _paired(group, declaration, explainer),
    ]
    said = [sentence for sentence in sentences if sentence]
    bib = "\n".join(entry for key, entry in sorted(references().values()) if key in cited)
    return Methods(" ".join(said), _tex(said, cited), bib)


def _layer(group: Group) -> str:
    explained = group.first.scores.explained
    size = "×".join(map(str, explained.cam_size)) if explained.cam_size else ""
    return f"layer {clean(explained.layer or 'none')}" + (f" ({size} maps)" if size else "")


def _models(group: Group, *, told: bool) -> str:
    """Name the networks, and where it is ``told`` how they were trained."""
    archs = sorted({clean(run.scores.checkpoint.arch or "unknown") for run in group.runs})
    if not told:
        one = len(group.runs) == 1
        return f"{'the' if one else len(group.runs)} {listed(archs)} network{'' if one else 's'}"
    counts = [f"{clean(name)} ({len(runs)} seed{'s' if len(runs) > 1 else ''})" for name, runs in group.methods.items()]
    return f"{listed(archs)} networks trained with {listed(counts)}"


def _training(group: Group) -> str:
    """Say which networks were trained in other numbers than float32."""
    found: dict[str, list[str]] = {}
    for run in group.runs:
        precision = run.card.lower_precision if run.card else None
        if precision is not None and clean(run.method) not in found.setdefault(clean(precision), []):
            found[clean(precision)].append(clean(run.method))
    return " ".join(
        f"The passes that trained {listed(names)} were computed in {precision}, losses and statistics in float32."
        for precision, names in found.items()
    )


def _paired(group: Group, declaration: Declaration, reference: str) -> str:
    """Say how explainers are compared on the same checkpoints."""
    counts = [len(runs) for runs in group.methods.values()]
    if len(real_explainers(group)) < 2:
        return ""
    said = f"Explainers are compared with {clean(reference)} on the same checkpoint{'' if counts == [1] else 's'}"
    if max(counts) == 1:
        what = "images, and intervals (95 %, Student's t) and tests are about images like these for this checkpoint"
    else:
        what = (
            "checkpoints, with 95 % intervals that have a component for checkpoints and one for images and "
            "Satterthwaite's degrees of freedom"
        )
    if 1 < min(counts) < SEEDS_FOR_P:
        return f"{said}: the differences are paired over {what}; with fewer than {SEEDS_FOR_P} nothing is tested."
    return f"{said}: the differences are paired over {what}; {_adjusted(declaration, paired=True)}"


def _statistics(group: Group, declaration: Declaration) -> str:
    least = min(len(runs) for runs in group.methods.values())
    if len(group.methods) < 2:
        return ""
    if least < SEEDS_FOR_INTERVAL:
        return f"With fewer than {SEEDS_FOR_INTERVAL} seeds no interval over training runs is given."
    said = (
        f"Differences to {clean(declaration.reference)} carry 95 % intervals with a component for seeds and one for "
        "images and Satterthwaite's degrees of freedom"
    )
    if least < SEEDS_FOR_P:
        return f"{said}; with fewer than {SEEDS_FOR_P} seeds nothing is tested."
    return f"{said}; {_adjusted(declaration, paired=False)}"


def _adjusted(declaration: Declaration, *, paired: bool) -> str:
    """Say how p values are adjusted, and below which number of images there are none."""
    columns = listed(map(clean, declaration.primary))
    images = "on which both explainers are defined" if paired else "that are defined in every run of both methods"
    return (
        f"p values of the declared columns ({columns}) are adjusted by Holm's method (α = "
        f"{declaration.alpha:g}), all others by that of Benjamini and Yekutieli. A comparison uses the images "
        f"{images}; below {IMAGES_FOR_P} of them, or {EVENTS_FOR_P} events or non-events "
        "of a rate among them, nothing is tested."
    )


def _tex(said: Sequence[str], cited: Sequence[str]) -> str:
    """Write the paragraph for LaTeX: everything is escaped, then the citations become commands.

    Names and formulas that no line can be broken in stand in it, hence the generous spaces.
    """
    escaped = " ".join(map(latex, said))
    for key in dict.fromkeys(cited):
        escaped = escaped.replace(f" [{key}]", rf"~\cite{{{key}}}")
    return f"\\begin{{sloppypar}}\n{escaped}\n\\end{{sloppypar}}\n"
