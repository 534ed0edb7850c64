"""The papers' own layouts, over all data sets at once: rows are methods, blocks are data sets.

ExCon (2022): accuracy, then drop and increase at every threshold, infidelity, stability. The 2026 paper: its facets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xeval.reports.captions import conventions, place
from xeval.reports.collect import Group
from xeval.reports.rows import Ground, lines_of, rows_of, stability_columns, stability_headings
from xeval.reports.sheets import masked_measures
from xeval.reports.summary import Measure, column_measure, model_measures
from xeval.reports.tables import Entry, Heading, Row, Table

INFIDELITY = ("infidelity.beta", "infidelity.skill")
FACETS = ("pixelflip.auc", "complexity.entropy", "complexity.gini", "ssim.value", "contrast.other")
LOCALISATION = ("pointing.hit", "relevance.mass")


def paper_tables(grounds: Sequence[tuple[Ground, str]]) -> list[Table]:
    """Make the layouts that the runs have columns for; each ground comes with its reference."""
    found = [_excon(grounds), _facets(grounds)]
    return [table for table in found if table is not None]


def _excon(grounds: Sequence[tuple[Ground, str]]) -> Table | None:
    with_masks = [(ground, name) for ground, name in grounds if masked_measures(ground.group)]
    blocks = [_block(ground, name, _excon_measures(ground.group), steady=True) for ground, name in with_masks]
    return _joined("excon-layout", "The layout of the ExCon paper", with_masks, blocks)


def _excon_measures(group: Group) -> list[Measure]:
    return [model_measures()[0], *masked_measures(group), *_present(group, INFIDELITY)]


def _facets(grounds: Sequence[tuple[Ground, str]]) -> Table | None:
    known = [(g, name) for g, name in grounds if len(_present(g.group, FACETS)) == len(FACETS)]
    blocks = [
        _block(g, name, [model_measures()[0], *_present(g.group, FACETS + LOCALISATION)], steady=False)
        for g, name in known
    ]
    return _joined("facets-layout", "Faithfulness, complexity, continuity, contrastivity", known, blocks)


def _present(group: Group, keys: Sequence[str]) -> list[Measure]:
    return [column_measure(group, key) for key in keys if key in group.first.scores.columns]


def _block(
    ground: Ground, reference: str, measures: Sequence[Measure], *, steady: bool
) -> tuple[list[Heading], list[Row]]:
    """Make one data set's rows under its name."""
    group = ground.group
    lines = lines_of(group, reference, "methods", with_controls=False)
    extra = stability_columns(group) if steady else []
    rows = [
        replace(row, group=place(group), entries=(*row.entries, *(column[i] for column in extra)))
        for i, row in enumerate(rows_of(ground, measures, lines))
    ]
    return [*map(Heading.of, measures), *(stability_headings(group) if steady else [])], rows


def _joined(
    slug: str, title: str, grounds: Sequence[tuple[Ground, str]], blocks: Sequence[tuple[list[Heading], list[Row]]]
) -> Table | None:
    """Join all blocks in one table; a column that a data set lacks stays empty there."""
    headings = list({heading.key: heading for of_block, _ in blocks for heading in of_block}.values())
    rows = [_aligned(row, of_block, headings) for of_block, of_rows in blocks for row in of_rows]
    if not rows:
        return None
    groups = [ground.group for ground, _ in grounds]
    told = [
        conventions(ground.group, of_block, of_rows, ground.analysis)
        for (ground, _), (of_block, of_rows) in zip(grounds, blocks, strict=True)
    ]
    named = told if len(groups) == 1 else [f"{place(one)}: {words}" for one, words in zip(groups, told, strict=True)]
    caption = f"{title}. {' '.join(named)}"
    return Table(slug, title, caption, tuple(headings), tuple(rows), where="; ".join(map(place, groups)))


def _aligned(row: Row, own: Sequence[Heading], headings: Sequence[Heading]) -> Row:
    entries = {heading.key: entry for heading, entry in zip(own, row.entries, strict=True)}
    return replace(row, entries=tuple(entries.get(heading.key, Entry()) for heading in headings))
