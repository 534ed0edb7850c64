"""The verdict of a comparison of explainers: what is said of each method's checkpoints, block by block.

For one fixed checkpoint images like these are the sample; several checkpoints are the sample themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xeval.reports.captions import place
from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import Analysis, Contrast
from xeval.reports.standing import standing
from xeval.reports.summary import Measure, best, cell, column_measure, decimal_places, real_explainers
from xeval.reports.text import clean, listed, number
from xeval.reports.verdict import Verdict, difference
from xeval.statistics.intervals import SEEDS_FOR_INTERVAL, SEEDS_FOR_P


def explainer_verdict(
    group: Group, reference: str, primary: Sequence[str], analysis: Analysis, told: str = ""
) -> Verdict:
    """Say for each method which explainers are best, which differ from ``reference`` and which beat no control.

    ``told`` says when the comparison was declared.
    """
    explainers = real_explainers(group)
    known = [column_measure(group, key) for key in primary if key in group.first.scores.columns]
    sentences = [f"On {clean(place(group), 200)}, {len(explainers)} explainers, compared with {clean(reference)}."]
    if len(explainers) < 2:
        sentences = [f"On {clean(place(group), 200)} one explainer was scored: there is nothing to compare."]
    for method, runs in group.methods.items():
        sentences.append(f"{_scope(method, runs)}:")
        sentences += _best(runs, known, explainers, reference)
        sentences += _significant(method, analysis)
        sentences += _lost(group, runs, known, explainers)
    threats = [*_threats(group), *([told] if told else [])]
    return Verdict(tuple(sentences), None, tuple(threats))


def _scope(method: str, runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"For {clean(method)}, paired on {len(runs)} checkpoints"
    seed = "" if runs[0].seed is None else f", seed {runs[0].seed}"
    return f"For this checkpoint ({clean(method)}{seed}), {runs[0].scores.dataset.n:,} images"


def _best(runs: Sequence[Run], measures: Sequence[Measure], explainers: Sequence[str], reference: str) -> Iterator[str]:
    """Yield who has the best mean on which primary columns, with the reference's numbers; the same ones share it."""
    said: dict[tuple[str, ...], list[str]] = {}
    for measure in measures:
        cells = {name: cell(runs, measure, name) for name in explainers}
        places = decimal_places(cells.values())
        wins = best(cells.values(), measure.direction, places)
        top = tuple(name for name, one in zip(cells, wins, strict=True) if one)
        top = () if len(top) == len(cells) else top
        own = {name: "undefined" if one.mean is None else number(one.mean, places) for name, one in cells.items()}
        told = [own[name] for name in top[:1]]
        told += [] if reference in top or reference not in own else [f"{clean(reference)} {own[reference]}"]
        said.setdefault(top, []).append(f"{measure.key} {measure.arrow} ({', '.join(told)})" if top else measure.key)
    for top, columns in said.items():
        names = listed([clean(name) for name in top])
        verb = "has the best mean on" if len(top) == 1 else "share the best mean on"
        yield f"{names} {verb} {listed(columns)}." if top else f"No explainer stands out on {listed(columns)}."


def _significant(method: str, analysis: Analysis) -> Iterator[str]:
    """Yield the declared differences of one block that are significant, and how many of its others are not."""
    own = [one for (block, *_), one in analysis.contrasts.items() if block == method and one.primary]
    tested = [one for one in own if one.adjusted is not None]
    if not tested:
        yield from _why_not(own)
        return
    found = [one for one in tested if one.significant(analysis.alpha)]
    for key in dict.fromkeys(one.measure.key for one in found):
        same = [one for one in found if one.measure.key == key]
        yield f"Against {clean(same[0].reference)} on {key}: {'; '.join(map(difference, same))}."
    rest = len(tested) - len(found)
    if rest:
        verb = "is" if rest == 1 else "are"
        yield f"{rest} of the {len(tested)} tested differences {verb} not significant (Holm, α = {analysis.alpha:g})."


def _why_not(own: Sequence[Contrast]) -> Iterator[str]:
    reasons = dict.fromkeys(one.estimate.short or one.estimate.note for one in own)
    if any(reasons):
        yield f"No declared difference is tested ({'; '.join(filter(None, reasons))})."


def _lost(group: Group, runs: Sequence[Run], measures: Sequence[Measure], explainers: Sequence[str]) -> Iterator[str]:
    """Yield which explainers are not shown to beat which controls on which columns; one sentence an outcome."""
    outcomes: dict[str, list[str]] = {}
    for name in explainers:
        lost: dict[str, list[str]] = {}
        for measure in measures:
            if floors := standing(group, runs, measure, name).lost:
                lost.setdefault(listed(floors), []).append(measure.key)
        for controls, keys in lost.items():
            outcomes.setdefault(f"shown to be better than {controls} on {listed(keys)} (‡)", []).append(clean(name))
    for outcome, names in outcomes.items():
        yield f"{listed(names)} {'is' if len(names) == 1 else 'are'} not {outcome}."


def _threats(group: Group) -> Iterator[str]:
    counts = [len(runs) for runs in group.methods.values()]
    if min(counts) == 1:
        yield (
            "For one checkpoint the images are the sample: p values and intervals are about images like these under "
            "these weights, and another training may order the explainers otherwise."
        )
    if any(1 < count < SEEDS_FOR_P for count in counts):
        need = f"intervals need {SEEDS_FOR_INTERVAL} checkpoints and p values {SEEDS_FOR_P}"
        yield f"With several checkpoints they are the sample: {need}."
    data = group.first.scores.dataset
    if data.n < data.of:
        yield f"Scored on {data.n:,} of {data.of:,} images ({clean(data.selection)})."
