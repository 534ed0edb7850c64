"""Sentences computed from the numbers say what was found, and what may be wrong with it.

Nothing here is written by hand about a particular result: if an expectation fails, the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from xeval.reports.agreement import over_methods
from xeval.reports.captions import place
from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import Analysis, Contrast
from xeval.reports.differences import p_text
from xeval.reports.standing import standing
from xeval.reports.summary import (
    Cell,
    Measure,
    best,
    cell,
    column_measure,
    controls,
    decimal_places,
    gain_measure,
    model_measures,
    real_explainers,
)
from xeval.reports.text import clean, listed, number
from xeval.statistics.effects import detectable_difference
from xeval.statistics.intervals import SEEDS_FOR_INTERVAL, SEEDS_FOR_P, mean_of
from xeval.statistics.tests import UNEQUAL_SPREAD, family_limit

ORDERED = "drop.mag@0.45"
MASKED_TRAINING = ("excon", "exconb")
BASELINE = "supcon"
ONE_SEED = "one seed"
TRAINING_FILL = "mean"  # masked views show the data-set mean colour where the map is low


@dataclass(frozen=True)
class Verdict:
    """A verdict is what was found about one group: sentences, and whether the expected ordering holds."""

    sentences: tuple[str, ...]
    ordering: str | None  # "holds" | "mixed" | "fails" | "one seed", which cannot say | None where it cannot be asked
    threats: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return one paragraph."""
        return " ".join(self.sentences)

    @property
    def badge(self) -> tuple[str, str]:
        """Return the class and the words of the page's badge: grey where one seed cannot say."""
        return ("untested", "not tested: one seed") if self.ordering == ONE_SEED else (self.ordering or "",) * 2


def verdict(
    group: Group, reference: str, primary: Sequence[str], analysis: Analysis | None = None, told: str = ""
) -> Verdict:
    """Find the best means beside the reference, what is significant, the expected ordering and threats to validity.

    ``told`` says when the comparison was declared.
    """
    analysis = analysis or Analysis()
    explainers = real_explainers(group)
    if not explainers:
        return Verdict((f"On {place(group)} only control explainers were scored: there is nothing to rank.",), None, ())
    known = [column_measure(group, key) for key in primary if key in group.first.scores.columns]
    sentences = [f"On {clean(place(group), 200)}, {_seeds(group)}, {clean(explainers[0])} maps:"]
    sentences += _best_sentences(group, known, explainers[0], reference)
    ordering, said = _ordering(group, explainers[0])
    sentences += [said] if said else []
    sentences += _control_sentences(group, known, explainers[0])
    sentences += _certainty(group, analysis)
    threats = [*_threats(group, known, explainers[0]), *_threats_of_tests(analysis), *([told] if told else [])]
    return Verdict(tuple(sentences), ordering, tuple(threats))


def _seeds(group: Group) -> str:
    counts = sorted({len(runs) for runs in group.methods.values()})
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{span} seed{'' if span == '1' else 's'} per method"


def _shown(found: Cell, decimals: int) -> str:
    spread = f" ± {number(found.std, decimals)}" if found.std is not None else ""
    return "undefined" if found.mean is None else f"{number(found.mean, decimals)}{spread}"


def _best_sentences(group: Group, measures: Sequence[Measure], explainer: str, reference: str) -> Iterator[str]:
    """Yield one sentence for each set of methods that print best on a primary column, with the reference's numbers."""
    said: dict[tuple[str, ...], list[str]] = {}
    for measure in measures:
        cells = {method: cell(runs, measure, explainer) for method, runs in group.methods.items()}
        places = decimal_places(cells.values())
        winners = best(cells.values(), measure.direction, places)
        top = tuple(method for method, wins in zip(cells, winners, strict=True) if wins)
        shown = [_shown(cells[name], places) for name in top[:1]]
        if reference not in top:
            name = f"{clean(reference)} " if len(cells) > 1 else ""
            shown.append(name + _shown(cells[reference], places))
        heading = f"{measure.key} {measure.arrow}".strip()
        said.setdefault(top, []).append(f"{heading} ({', '.join(shown)})")
    for top, parts in said.items():
        yield f"{_subject(group, top, reference)} {listed(parts)}."


def _subject(group: Group, top: tuple[str, ...], reference: str) -> str:
    """Begin a sentence with those who have the best mean."""
    if len(group.methods) == 1:
        return f"{clean(reference)} has"
    if not top:
        return "No method stands out on"
    names = [f"{clean(name)} (the reference)" if name == reference else clean(name) for name in top]
    return f"{listed(names)} {'has' if len(names) == 1 else 'share'} the best mean on"


def _ordering(group: Group, explainer: str) -> tuple[str | None, str]:
    """Ask whether training on masked images lowers drop.mag@0.45 and raises its gain over random-cam, in every seed."""
    trained = [method for method in MASKED_TRAINING if method in group.methods]
    if not trained or BASELINE not in group.methods or ORDERED not in group.first.scores.columns:
        return None, ""
    base = column_measure(group, ORDERED)
    tests = [base] + ([gain_measure(base, "random-cam")] if "random-cam" in controls(group) else [])
    outcome = {
        (method, measure.key): _wins(group, method, measure, explainer) for method in trained for measure in tests
    }
    wins, total = sum(w for w, _ in outcome.values()), sum(n for _, n in outcome.values())
    if not total:
        return None, ""
    state = "holds" if wins == total else "fails" if wins == 0 else "mixed"
    if min(n for _, n in outcome.values() if n) == 1:
        state = ONE_SEED
    names = " and ".join(trained)
    claim = f"{names} below {BASELINE} on {ORDERED}" + (
        " and above it in gain over random-cam" if len(tests) > 1 else ""
    )
    told = {
        "holds": f"The expected ordering ({claim}) holds for every seed.",
        "fails": f"The expected ordering ({claim}) fails for every seed.",
        "mixed": f"The expected ordering ({claim}) does not hold for every seed: {_tally(outcome)}.",
        ONE_SEED: f"Whether the expected ordering ({claim}) holds cannot be said with one seed: {_tally(outcome)}.",
    }
    return state, told[state]


def _wins(group: Group, method: str, measure: Measure, explainer: str) -> tuple[int, int]:
    """Count on how many shared seeds the method is strictly better than the baseline, and how many are shared."""
    base = {run.seed: run for run in group.methods[BASELINE]}
    pairs = [(run, base[run.seed]) for run in group.methods[method] if run.seed in base]
    gaps = [_gap(own, other, measure, explainer) for own, other in pairs]
    return sum(measure.better(gap, 0.0) for gap in gaps), len(pairs)


def _gap(own: Run, other: Run, measure: Measure, explainer: str) -> float:
    """Return the difference of two runs' means, over the images that both have where they are known; NaN without."""
    first, second = (measure.each(run, explainer) if measure.each else None for run in (own, other))
    if first is not None and second is not None:
        return mean_of((first - second)[np.isfinite(first - second)])
    a, b = measure.read(own, explainer).value, measure.read(other, explainer).value
    return math.nan if a is None or b is None else a - b


def _tally(outcome: dict[tuple[str, str], tuple[int, int]]) -> str:
    words = {ORDERED: "lower drop"}
    return ", ".join(
        f"{method} has the {words.get(key, 'larger gain')} in {wins} of {total}"
        for (method, key), (wins, total) in outcome.items()
    )


def _control_sentences(group: Group, measures: Sequence[Measure], explainer: str) -> Iterator[str]:
    """Yield which methods are not shown to beat which floors on which columns; the same outcome shares a sentence."""
    outcomes: dict[str, list[str]] = {}
    for method, runs in group.methods.items():
        lost: dict[str, list[str]] = {}
        for measure in measures:
            if names := standing(group, runs, measure, explainer).lost:
                lost.setdefault(listed(names), []).append(measure.key)
        for floors, keys in lost.items():
            outcomes.setdefault(f"shown to be better than {floors} on {listed(keys)} (‡)", []).append(clean(method))
    for outcome, methods in outcomes.items():
        yield f"{listed(methods)} {'is' if len(methods) == 1 else 'are'} not {outcome}."


def _certainty(group: Group, analysis: Analysis) -> Iterator[str]:
    least = min(len(runs) for runs in group.methods.values())
    if least == 1:
        yield "With one seed a difference says nothing about training again: treat it as a description of these files."
    elif least < SEEDS_FOR_P:
        beside = "against its spread" if least < SEEDS_FOR_INTERVAL else "with its interval"
        yield f"With fewer than {SEEDS_FOR_P} seeds no difference can be tested: read each {beside}."
    elif tested := [found for found in analysis.primary if found.adjusted is not None]:
        yield from _significant(tested, analysis)
    else:
        yield "No declared difference is tested here: read each against its spread."
    if least >= SEEDS_FOR_P:
        yield from _too_few(analysis)


def _significant(tested: Sequence[Contrast], analysis: Analysis) -> Iterator[str]:
    """Yield the significant differences, or what could have been found; the family includes what is not tested."""
    alpha, family = analysis.alpha, len(analysis.primary)
    of = "declared differences" + (" that are tested" if len(tested) < family else "")
    found = [one for one in tested if one.significant(alpha)]
    for key in dict.fromkeys(one.measure.key for one in found):
        same = [one for one in found if one.measure.key == key]
        yield f"Against {clean(same[0].reference)} on {key}: {'; '.join(map(difference, same))}."
    if found:
        rest = len(tested) - len(found)
        if rest:
            yield f"The other {rest} {of} are not significant (Holm, α = {alpha:g})."
        return
    first, second = min((one.estimate.seeds for one in tested), key=min)
    size = detectable_difference(first, second, alpha=alpha, comparisons=family)
    yield (
        f"None of the {len(tested)} {of} is significant (Holm, α = {alpha:g}); with these seeds a "
        f"difference of {size:.1f} standard deviations between seeds would be found four times in five."
    )


def _too_few(analysis: Analysis) -> Iterator[str]:
    """Yield which declared differences have too few images or events for a test."""
    short = [
        f"{clean(one.label)} on {one.measure.key} ({one.estimate.short})"
        for one in analysis.primary
        if one.estimate.short
    ]
    if short:
        yield f"Not tested for want of images or events: {listed(short)}."


def difference(one: Contrast) -> str:
    """Return a difference in words: whose, how much with its interval, and the adjusted p."""
    estimate = one.estimate
    low, high = estimate.interval or (math.nan, math.nan)
    places = max(3, 2 - math.floor(math.log10(max(abs(high - low), 1e-9))))
    ends = f"[{number(low, places)}, {number(high, places)}]"
    wins = f", {one.a12} seed pairs" if one.a12 else ""
    return f"{clean(one.label)} {number(estimate.value, places)} {ends} (p {_after_holm(one)}{wins})"


def _after_holm(one: Contrast) -> str:
    p = p_text(one.adjusted)
    return p if p.startswith("<") else f"= {p}"


def _threats_of_tests(analysis: Analysis) -> Iterator[str]:
    """Yield where the exact check cannot confirm or does not confirm what the interval says."""
    tested = [one for one in analysis.primary if one.adjusted is not None]
    pairs = [(one.estimate.seeds[0], one.estimate.seeds[-1]) for one in tested]
    limits = {family_limit(first, second, len(analysis.primary), analysis.alpha) for first, second in pairs}
    yield from (f"{limit[0].upper()}{limit[1:]}." for limit in sorted(limits - {""}))
    for one in tested:
        if one.significant(analysis.alpha) and one.check and one.check.p is not None and one.check.p >= analysis.alpha:
            yield (
                f"{clean(one.label)} on {one.measure.key}: the permutation check ({one.check.note}) gives "
                f"p = {one.check.p:.2g} and does not confirm the difference."
            )
    yield from _left_out(tested)


def _left_out(tested: Sequence[Contrast]) -> Iterator[str]:
    """Yield where the permutation check was left out because the two methods spread too unlike."""
    found: dict[str, list[str]] = {}
    for one in tested:
        if one.check is not None and one.check.note == UNEQUAL_SPREAD:
            found.setdefault(one.measure.key, []).append(clean(one.label))
    for key, labels in found.items():
        yield f"{key}: the permutation check is left out for {listed(labels)} ({UNEQUAL_SPREAD})."


def _threats(group: Group, primary: Sequence[Measure], explainer: str) -> Iterator[str]:
    """Yield facts that may explain a difference without any explanation being better."""
    yield from _threats_of_design(group)
    yield from _threats_of_confounders(group)
    yield from _threats_of_training(group)
    yield from _threats_of_disagreement(group, primary, explainer)
    for measure in primary:
        yield from _threats_of_controls(group, measure, explainer)


def _threats_of_disagreement(group: Group, primary: Sequence[Measure], explainer: str) -> Iterator[str]:
    """Yield the primary columns that rank the methods against each other."""
    ranked = [measure for measure in primary if measure.direction is not None]
    for a, b in combinations(ranked, 2):
        tau = over_methods(group, a, b, explainer)
        if tau < 0:
            yield f"{a.key} and {b.key} rank the methods against each other (Kendall τ {number(tau, 2)})."


def _threats_of_controls(group: Group, measure: Measure, explainer: str) -> Iterator[str]:
    """Name the controls whose mean is better than the explainer's; methods with the same ones share a sentence."""
    better: dict[str, list[str]] = {}
    for method, runs in group.methods.items():
        if won := [clean(c) for c in controls(group) if _control_wins(runs, measure, explainer, c)]:
            better.setdefault(listed(won), []).append(clean(method))
    for names, methods in better.items():
        verb = "have" if " and " in names else "has"
        yield f"{names} {verb} a better mean than {clean(explainer)} on {measure.key} for {listed(methods)}."


def _control_wins(runs: Sequence[Run], measure: Measure, explainer: str, control: str) -> bool:
    own, floor = cell(runs, measure, explainer).mean, cell(runs, measure, control).mean
    return own is not None and floor is not None and measure.better(floor, own)


def _threats_of_design(group: Group) -> Iterator[str]:
    counts = {method: len(runs) for method, runs in group.methods.items()}
    if few := [f"{clean(method)} {count}" for method, count in counts.items() if count < SEEDS_FOR_P]:
        yield f"Fewer than {SEEDS_FOR_P} seeds: {', '.join(few)}."
    if len(set(counts.values())) > 1:
        yield "Methods have different numbers of seeds."
    data = group.first.scores.dataset
    if data.n < data.of:
        yield f"Scored on {data.n:,} of {data.of:,} images ({clean(data.selection)})."
    for what, read in _MUST_AGREE.items():
        if len(kinds := {read(run) for run in group.runs}) > 1:
            yield f"Runs differ in {what}: {', '.join(clean(str(kind)) for kind in sorted(kinds, key=str))}."
    for method, runs in group.methods.items():
        if len({run.scores.checkpoint.recipe_hash for run in runs}) > 1:
            yield f"The seeds of {clean(method)} were trained with different recipes."


_MUST_AGREE: dict[str, Callable[[Run], object]] = {
    "the weights that were scored": lambda run: run.scores.checkpoint.weights,
    "the explained layer": lambda run: run.scores.explained.layer,
    "the size of the maps": lambda run: run.scores.explained.cam_size,
    "the precision of training": lambda run: (run.card.lower_precision if run.card else None) or "float32",
    "training data": lambda run: (run.card.train_manifest if run.card else None) or "unknown",
}


def _threats_of_confounders(group: Group) -> Iterator[str]:
    """Yield the differences between the models that move softmax-based scores by themselves."""
    limits = {"model.accuracy": ("accuracy", 0.01), "model.p0": ("mean confidence", 0.03), "model.ece": ("ECE", 0.02)}
    for measure in model_measures():
        words, limit = limits[measure.key]
        means = {m: mean for m, runs in group.methods.items() if (mean := cell(runs, measure, "").mean) is not None}
        if not means or max(means.values()) - min(means.values()) < limit:
            continue
        low, high = (pick(means, key=lambda method: means[method]) for pick in (min, max))
        gap = (means[high] - means[low]) * 100
        ends = f"{clean(low)} {means[low]:.3f}, {clean(high)} {means[high]:.3f}"
        yield f"Methods differ in {words} by {gap:.1f} points ({ends}), which alone moves softmax-based scores."


def _threats_of_training(group: Group) -> Iterator[str]:
    masked = [method for method in group.methods if method in MASKED_TRAINING]
    if masked and group.first.scores.protocol.settings.get("fill") == TRAINING_FILL:
        yield (
            f"{listed(masked)} trained on images masked with the fill that drop and increase are scored with "
            "(data-set mean colour): part of a gain may be practice with the test perturbation."
        )
    if never := [method for method in masked if any(r.card and r.card.unexplained for r in group.methods[method])]:
        yield (
            f"{listed(never)} never explained while training (explanations were to begin after the last epoch): those "
            "runs are supcon under another name."
        )
    tuned = sorted({run.method for run in group.runs if run.card and run.card.selection.get("select_on") == "test"})
    if tuned:
        yield f"The best epoch was chosen on the test split: {listed([clean(method) for method in tuned])}."
