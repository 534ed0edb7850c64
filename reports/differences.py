"""One table shows the differences to the reference: Δ with its interval, the adjusted p, and how often a seed wins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from xeval.reports.captions import changed, notes_of, place, table_slug
from xeval.reports.collect import Group
from xeval.reports.contrasts import Analysis, Contrast
from xeval.reports.summary import Measure, cell, decimal_places
from xeval.reports.tables import MISSING, Entry, Heading, Row, Table
from xeval.reports.text import clean, number
from xeval.statistics.intervals import IDENTICAL, IMAGES_ONLY, ONE_CHECKPOINT


def differences(group: Group, analysis: Analysis, primary: Sequence[Measure]) -> list[Table]:
    """Make one table over the primary measures, none where there is nothing to compare."""
    found = {key: one for key, one in analysis.contrasts.items() if key[1] in {measure.key for measure in primary}}
    if not found:
        return []
    labels = list(dict.fromkeys((block, label) for block, _, label in found))
    kept = _shown(found.values(), paired=any(block for block, _ in labels))
    headings = tuple(heading for measure in primary for heading in compress(_headings(measure, found.values()), kept))
    rows = tuple(
        Row(
            label,
            tuple(
                entry
                for measure in primary
                for entry in compress(_entries(group, analysis, measure, block, label), kept)
            ),
            group=block,
        )
        for block, label in labels
    )
    against = " or ".join(sorted({one.reference for one in found.values()}))
    blocks = any(block for block, _ in labels)
    return [
        Table(
            slug=table_slug(group, "differences"),
            title=f"Differences to {clean(against)}",
            caption=_caption(group, analysis, list(found.values()), rows, against),
            headings=headings,
            rows=rows,
            corner="explainer" if blocks else "method",
            where=place(group),
        )
    ]


def _shown(found: Iterable[Contrast], *, paired: bool) -> tuple[bool, bool, bool, bool]:
    """Say which of Δ, p, A12 and the seeds' share are columns: paired rows have no A12, one checkpoint no share."""
    return True, True, not paired, not paired or any(one.estimate.share is not None for one in found)


def _headings(measure: Measure, found: Iterable[Contrast]) -> Iterator[Heading]:
    name = f"{measure.label} {measure.arrow}".strip()
    of = "95 %, images only" if _images_only(measure, found) else "95 %"
    yield Heading(f"delta.{measure.key}", f"Δ [{of}]", "", name, f"difference of {measure.title}, 95 % interval")
    yield Heading(f"p.{measure.key}", "p", "", name, "adjusted p")
    yield Heading(f"a12.{measure.key}", "A12", "", name, "share of seed pairs in which the row is better, ties half")
    yield Heading(
        f"seeds.{measure.key}", "seeds' share", "", name, "share of the variance of Δ that lies between seeds"
    )


def _images_only(measure: Measure, found: Iterable[Contrast]) -> bool:
    """Return whether every interval of a measure is over the images of single checkpoints."""
    estimates = [one.estimate for one in found if one.measure.key == measure.key and one.estimate.interval]
    return bool(estimates) and all(one.note in (IMAGES_ONLY, ONE_CHECKPOINT) for one in estimates)


def _entries(group: Group, analysis: Analysis, measure: Measure, block: str, label: str) -> Iterator[Entry]:
    found = analysis.of(measure.key, label, block)
    if found is None:
        yield from (Entry(),) * 4
        return
    explainers = list(group.first.scores.explainers)
    places = decimal_places(cell(runs, measure, explainers[0]) for runs in group.methods.values())
    yield from _of(found, places, beside="" if _images_only(measure, analysis.contrasts.values()) else IMAGES_ONLY)


def _of(found: Contrast, places: int, beside: str) -> Iterator[Entry]:
    """Yield the cells of one contrast; ``beside`` is a note of the estimate that the heading does not say already."""
    estimate, share = found.estimate, found.estimate.share
    value = None if estimate.value != estimate.value else estimate.value
    note = _images_note(found, places) + (f"[{beside}]" if beside and estimate.note == beside else "")
    yield Entry(value, n=estimate.images, decimals=places, interval=estimate.interval, note=note)
    short = f"[{estimate.short}]" if estimate.short and estimate.note != IDENTICAL else ""
    yield Entry(found.adjusted, text=p_text(found.adjusted), note=short)
    yield Entry(None if found.a12 is None else found.a12.value, decimals=2)
    yield Entry(None if share is None else share.seeds, text=MISSING if share is None else f"{share.seeds:.0%}")


def _images_note(found: Contrast, places: int) -> str:
    """Say how many images are common where a run has more, with both means over them where other tables differ."""
    common = found.common
    if common is None or not common.fewer or not common.n:
        return ""
    here, there = ([number(mean, places) for mean in means] for means in (common.means, common.own))
    return f"[{common.n} compared{'' if here == there else f': {here[0]}, {here[1]}'}]"


def p_text(p: float | None) -> str:
    """Print p with two significant digits, ``< 0.001`` below that, a dash where there is none."""
    if p is None:
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _caption(group: Group, analysis: Analysis, found: Sequence[Contrast], rows: Sequence[Row], against: str) -> str:
    paired = any(block for block, *_ in analysis.contrasts)
    declared = any(one.primary for one in found)
    rule = f"Holm over {len(analysis.primary)} declared comparisons" if declared else "exploratory, Benjamini–Yekutieli"
    notes = sorted({one.estimate.note for one in found} - {"", ONE_CHECKPOINT, *(one.estimate.short for one in found)})
    marks = [f" {words[0].upper()}{words[1:]}." for words in [*_notes(rows), *changed(found)]]
    return (
        f"Row minus {against}, {place(group)}: {_design(found, paired=paired)}; p adjusted ({rule}, "
        f"α = {analysis.alpha:g}).{_about_seeds(_shown(found, paired=paired))}"
        + "".join(marks)
        + (f" Where a number is missing: {'; '.join(notes)}." if notes else "")
    )


def _design(found: Sequence[Contrast], *, paired: bool) -> str:
    """Say what the sample is and how the interval is made."""
    if paired and all(one.estimate.seeds == (1, 1) for one in found):
        return "paired over images for this checkpoint, which says nothing about retraining; Student's t interval"
    design = "paired on the same checkpoints" if paired else "unpaired over seeds, crossed over images"
    return f"{design}, two-component interval with Satterthwaite's degrees of freedom"


def _about_seeds(shown: tuple[bool, bool, bool, bool]) -> str:
    """Explain the columns about seeds that the table has."""
    about = (
        "A12 = share of seed pairs in which the row is better",
        "seeds' share = how much of the uncertainty only more seeds can lower",
    )
    told = "; ".join(compress(about, shown[2:]))
    return f" {told}." if told else ""


def _notes(rows: Sequence[Row]) -> list[str]:
    """Say what the notes of the table mean."""
    notes = [entry.note for row in rows for entry in row.entries]
    means = (
        ["Behind a colon: the means of the row and of the reference over these images"]
        if ": " in "".join(notes)
        else []
    )
    return [*notes_of(notes), *means]
