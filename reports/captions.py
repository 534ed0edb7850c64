"""Every table and figure of a group shares these words: where, how many, and what the marks mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xeval.reports.collect import Group, Run
from xeval.reports.contrasts import FEW_SEEDS, Analysis, Contrast
from xeval.reports.standing import FLOORS
from xeval.reports.style import Spread, Style
from xeval.reports.summary import controls
from xeval.reports.tables import Heading, Row
from xeval.reports.text import clean, listed, slug
from xeval.statistics.floor import EVENTS_FOR_P, IMAGES_FOR_P
from xeval.statistics.intervals import SEEDS_FOR_P


def table_slug(group: Group, name: str) -> str:
    """Return a stable name, ``digits-headline``, with the recipe where it is not the data set's own."""
    return slug(*group.names, name)


def place(group: Group) -> str:
    """Say the data set, the split, the number of images, and recipe and architecture where they tell groups apart."""
    return _place(group, group.told)


def data_place(group: Group) -> str:
    """Say the data set, the split and the number of images."""
    return _place(group, ())


def _place(group: Group, told: Sequence[str]) -> str:
    data = group.first.scores.dataset
    of = f"{data.n:,} of {data.of:,}" if data.n < data.of else f"{data.n:,}"
    return f"{data.name} ({', '.join([data.split, f'{of} images{_counted(group)}', *told])})"


def _counted(group: Group) -> str:
    """Say which of the scored images the protocol counts, where it is not all."""
    common = group.correct_under_all if group.subset == "correct-under-all" else None
    return "" if common is None else f", the {int(common.sum()):,} that every checkpoint classifies correctly"


#: Each note behind a number is explained by these words; the key is a text that the note holds.
NOTES = {
    " compared": "[n compared] = images that are defined in every run of the row and of its reference, where fewer",
    "<": (
        f"[n < {IMAGES_FOR_P}], [n < {EVENTS_FOR_P}] = too few common images, or events or non-events of a rate among "
        "them, for a test: no p and no mark"
    ),
    "unknown]": "[undefined images unknown] = single images were not kept, so that no common images can be found",
}


def conventions(
    group: Group,
    headings: Iterable[Heading],
    rows: Iterable[Row],
    analysis: Analysis | None = None,
    style: Style | None = None,
    *,
    paired: bool = False,
) -> list[str]:
    """Write the end of a caption: what ±, arrows, bold, brackets and marks mean, as far as the table uses them.

    ``paired`` says that the rows are explainers, compared on the same checkpoints. Returns sentences.
    """
    headings, rows, style = list(headings), list(rows), style or Style()
    entries = [entry for row in rows for entry in row.entries]
    marks = {sign for entry in entries for sign in entry.mark}
    parts = [f"Entries are {_spread(group, style, 'checkpoint' if paired else 'seed')}"]
    if any(heading.arrow for heading in headings):
        parts.append("↓ lower, ↑ higher is better")
    if style.bold == "tied":
        parts += _bold(group, headings, rows, analysis, paired=paired)
    elif any(entry.bold for entry in entries):
        parts.append("bold marks the best mean, whatever a test says")
    if any(entry.underline for entry in entries):
        parts.append("the second-best mean is underlined")
    if any(entry.n is not None and f"[{entry.n}]" in entry.note for entry in entries):
        parts.append("[n] = images where fewer are defined")
    parts += notes_of(entry.note for entry in entries)
    if any(entry.was for entry in entries):
        parts.append("[was x] = the mean of the earlier comparison, where it prints otherwise")
    if analysis is not None:
        parts += [words for sign, words in significance(analysis).items() if sign in marks]
        parts += changed(found for found in analysis.contrasts.values() if found.measure.key in _keys(headings))
    if "‡" in marks:
        parts.append(_daggers(group, paired=paired))
    return [f"{words[0].upper()}{words[1:]}." for words in parts]


def notes_of(notes: Iterable[str]) -> list[str]:
    """Say what the notes of a table's cells mean."""
    every = " ".join(notes)
    return [words for sign, words in NOTES.items() if sign in every]


def changed(contrasts: Iterable[Contrast]) -> list[str]:
    """Say where a comparison has less than half of a row's images left, and so answers another question."""
    found = [one for one in contrasts if one.common is not None and one.common.changed]
    told = [
        f"{clean(one.label)} on {one.measure.key} ({one.common.n} of {one.common.of})" for one in found if one.common
    ]
    words = "less than half of the images is left and the estimand has changed to the commonly defined images"
    return [f"{words} for {', '.join(told)}"] if told else []


def _keys(headings: Sequence[Heading]) -> set[str]:
    return {heading.key for heading in headings}


def _daggers(group: Group, *, paired: bool) -> str:
    """Say what ‡ means for this group's numbers of seeds."""
    names = [name for name in FLOORS if name in controls(group)]
    least = min(len(runs) for runs in group.methods.values())
    two = "checkpoints" if paired else "seeds"
    how = {1: ", over images only", 2: f", which two {two} do not give: there ‡ is a mean that is not better"}
    checkpoints = "checkpoint" if paired and len(group.runs) == 1 else "checkpoints"
    return (
        f"‡ not shown to be better than {'each of ' if len(names) > 1 else ''}{listed(names)} on the same "
        f"{checkpoints} (95 % interval of the paired difference{how.get(least, '')})"
    )


#: What stands behind a mean.
SPREADS: dict[Spread, str] = {
    "sd": "mean ± std (n−1) over {}",
    "se": "mean ± standard error over {}",
    "ci": "mean [95 % interval for other seeds and images] over {}",
    "none": "means over {}",
}


def checkpoint(run: Run) -> str:
    """Name a single checkpoint."""
    return f"checkpoint {clean(run.name)}"


def _spread(group: Group, style: Style, sample: str) -> str:
    """Say what the entries are; ``sample`` is what there is one or several of: seeds, or checkpoints."""
    counts = sorted(len(runs) for runs in group.methods.values())
    if counts[-1] == 1:
        return f"means over images for one {sample}, so without a spread"
    samples = f"{counts[0]} {sample}s" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]} {sample}s"
    return SPREADS[style.spread].format(samples)


def significance(analysis: Analysis) -> dict[str, str]:
    """Say what the marks of significance mean in this comparison."""
    names = sorted({found.reference for found in analysis.contrasts.values()})
    than = f"differs from {' or '.join(names)}"
    family = f"Holm over the {len(analysis.primary)} declared comparisons"
    return {
        "†": f"† {than} ({family}, α = {analysis.alpha:g})",
        "§": f"§ {than} (exploratory: Benjamini–Yekutieli, α = {analysis.alpha:g})",
    }


def _bold(
    group: Group, headings: Sequence[Heading], rows: Sequence[Row], analysis: Analysis | None, *, paired: bool
) -> list[str]:
    """Say what bold means in the columns that have it: a test where there was one, else only the best mean, and why."""
    tested = {key for _, key in analysis.leading} if analysis else set()
    columns = [heading for i, heading in enumerate(headings) if any(row.entries[i].bold for row in rows)]
    reasons: dict[str, list[str]] = {}
    for heading in columns:
        if heading.key not in tested:
            reasons.setdefault(_untested(group, heading.key, analysis, paired=paired), []).append(_name(heading))
    parts = []
    if analysis and _keys(columns) & tested:
        rule = f"Holm, α = {analysis.alpha:g}"
        parts.append(
            f"bold marks the best mean and those not significantly worse ({rule}), and nothing where no row is worse"
        )
    elif analysis and _keys(headings) & tested:
        parts.append(f"nothing tested is bold: no row is significantly worse (Holm, α = {analysis.alpha:g})")
    alone = len(reasons) == 1 and not parts
    return parts + [
        f"{'' if alone else f'on {listed(names)} '}bold marks the best mean ({why})" for why, names in reasons.items()
    ]


def _untested(group: Group, key: str, analysis: Analysis | None, *, paired: bool) -> str:
    """Say why the rows of a column were not tested against the best."""
    if analysis and key in analysis.untested:
        return analysis.untested[key]
    least = min(len(runs) for runs in group.methods.values())
    return FEW_SEEDS if least < SEEDS_FOR_P and not (paired and least == 1) else "untested"


def _name(heading: Heading) -> str:
    return f"{heading.group} {heading.label}".strip()
