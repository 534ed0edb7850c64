"""The words that every table and figure of a group shares: where, how many, and what the marks mean."""

from __future__ import annotations

from collections.abc import Iterable

from xeval.reports.collect import Group
from xeval.reports.contrasts import Analysis
from xeval.reports.summary import FLOORS, controls
from xeval.reports.tables import Heading, Row
from xeval.reports.text import slug
from xeval.statistics.intervals import SEEDS_FOR_P


def table_slug(group: Group, name: str) -> str:
    """A stable name: ``digits-headline``, with the recipe where it is not the data set's own."""
    return slug(group.dataset, "" if group.recipe == group.dataset else group.recipe, name)


def place(group: Group) -> str:
    """Data set, split, number of images and recipe in words."""
    data = group.first.scores.dataset
    of = f"{data.n:,} of {data.of:,}" if data.n < data.of else f"{data.n:,}"
    recipe = f", recipe {group.recipe}" if group.recipe and group.recipe != group.dataset else ""
    return f"{data.name} ({data.split}, {of} images{_counted(group)}{recipe})"


def _counted(group: Group) -> str:
    """Which of the scored images the protocol counts, where not all."""
    common = group.correct_under_all if group.subset == "correct-under-all" else None
    return "" if common is None else f", the {int(common.sum()):,} that every checkpoint classifies correctly"


def conventions(
    group: Group, headings: Iterable[Heading], rows: Iterable[Row], analysis: Analysis | None = None
) -> str:
    """The end of a caption: what ±, arrows, bold, brackets and marks mean, as far as the table uses them."""
    entries = [entry for row in rows for entry in row.entries]
    marks = {sign for entry in entries for sign in entry.mark}
    parts = [f"Entries are {_spread(group)}"]
    if any(heading.arrow for heading in headings):
        parts.append("↓ lower, ↑ higher is better")
    if any(entry.bold for entry in entries):
        parts.append(_bold(group, analysis))
    if any(entry.note for entry in entries):
        parts.append("[n] = images where fewer are defined")
    if any(entry.was for entry in entries):
        parts.append("[was x] = the mean of the earlier comparison, where it prints otherwise")
    if analysis is not None:
        parts += [words for sign, words in significance(analysis).items() if sign in marks]
    if "‡" in marks:
        floors = [name for name in FLOORS if name in controls(group)]
        both = "both " if len(floors) > 1 else ""
        parts.append(f"‡ does not beat {both}{' and '.join(floors)} on the same checkpoints")
    return "; ".join(parts) + "."


def _spread(group: Group) -> str:
    counts = sorted(len(runs) for runs in group.methods.values())
    if counts[-1] == 1:
        return "means over images for one seed, so without a spread"
    seeds = f"{counts[0]} seeds" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]} seeds"
    return f"mean ± std (n−1) over {seeds}"


def significance(analysis: Analysis) -> dict[str, str]:
    """What the marks of significance mean in this comparison."""
    names = sorted({found.reference for found in analysis.contrasts.values()})
    than = f"differs from {' or '.join(names)}"
    family = f"Holm over the {len(analysis.primary)} declared comparisons"
    return {
        "†": f"† {than} ({family}, α = {analysis.alpha:g})",
        "§": f"§ {than} (exploratory: Benjamini–Yekutieli, α = {analysis.alpha:g})",
    }


def _bold(group: Group, analysis: Analysis | None) -> str:
    least = min(len(runs) for runs in group.methods.values())
    if analysis is not None and analysis.leading:
        return f"bold = best mean and those not significantly worse (Holm, α = {analysis.alpha:g})"
    why = f"fewer than {SEEDS_FOR_P} seeds, so no test and no claim" if least < SEEDS_FOR_P else "untested"
    return f"bold = best mean ({why})"
