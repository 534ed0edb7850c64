"""Tables over all groups of runs at once, laid out as the papers print them, and the one that an author asks for.

A table may join groups, batch sizes or data sets, as rows or blocks; every entry is compared within its own group only.
ExCon (2022): accuracy (its table 1) and infidelity (2) by batch size, drop and increase by threshold (3 to 8). The 2026
paper on contrastive learning and explanations: its facets by method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from xeval.reports.captions import conventions, data_place, place
from xeval.reports.collect import Group
from xeval.reports.rows import Ground, Line, lines_of, rows_of
from xeval.reports.sheets import MASKED_SHARE, headline_measures, masked_measures, measures_by_name
from xeval.reports.summary import Measure, model_measures, real_explainers, relabel
from xeval.reports.tables import Entry, Heading, Row, Table
from xeval.reports.text import clean, listed, slug

#: Column → what the 2026 paper asks with it, and its heading.
FACETS = {
    "pixelflip.auc": ("Faithfulness", "pixel flipping"),
    "complexity.entropy": ("Complexity", "entropy"),
    "complexity.gini": ("Complexity", "Gini"),
    "ssim.value": ("Continuity", "SSIM"),
    "contrast.other": ("Contrastivity", "SSIM"),
}
LOCALISATION = {"pointing.hit": ("Localisation", "pointing"), "relevance.mass": ("Localisation", "mass")}
INFIDELITY = {"infidelity.beta": ("", "infidelity")}
#: What a table without arrows says of its measure.
DIRECTIONS = {
    "↑": "Higher is better.",
    "↓": "Lower is better.",
    "": "Not ranked, as the values depend on how far a network's output moves.",
}
#: The headings of ExCon's tables 3 to 8, after that of the methods.
DROP = {
    "drop.rate": "drop rate",
    "drop.mag": "drop magnitude",
    "increase.rate": "increase rate",
    "increase.mag": "increase magnitude",
}


@dataclass(frozen=True)
class Block:
    """One group's part of a table: methods as rows, measures as columns."""

    ground: Ground
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]

    @property
    def group(self) -> Group:
        """Return the group of runs."""
        return self.ground.group

    @property
    def without_arrows(self) -> Block:
        """Return the part for a table whose columns are methods."""
        return replace(self, headings=tuple(replace(heading, arrow="") for heading in self.headings))

    @property
    def sentences(self) -> list[str]:
        """Return what the marks of this part mean."""
        return conventions(self.group, self.headings, self.rows, self.ground.analysis, self.ground.style)

    @property
    def batch(self) -> str:
        """Return the batch sizes of the trainings, empty where a run does not know its own."""
        sizes = {run.card.recipe.get("batch_size") if run.card else None for run in self.group.runs}
        known = sorted(size for size in sizes if isinstance(size, int))
        return " and ".join(map(str, known)) if len(known) == len(sizes) else ""


Measures = Callable[[Group], Sequence[Measure]]


def paper_tables(grounds: Sequence[tuple[Ground, str]]) -> list[Table]:
    """Make the layouts that the runs have columns for; each ground comes with its reference."""
    in_percent = [(_with(ground, percent=True), name) for ground, name in grounds]
    return [
        *_by_batch(
            "excon-table1", "Top-1 accuracy", _blocks(in_percent, lambda _: model_measures()[:1], networks=True)
        ),
        *_by_batch("excon-table2", "β-scaled infidelity", _blocks(grounds, lambda group: _present(group, INFIDELITY))),
        *_drops(grounds),
        *_facets(grounds),
    ]


def _with(ground: Ground, **changes: object) -> Ground:
    return replace(ground, style=ground.style.model_copy(update=changes))


def _present(group: Group, wanted: dict[str, tuple[str, str]]) -> list[Measure]:
    known = measures_by_name(group)
    return [relabel(known[key], label, above) for key, (above, label) in wanted.items() if key in known]


def _blocks(grounds: Iterable[tuple[Ground, str]], measures: Measures, *, networks: bool = False) -> list[Block]:
    """Make the parts of a table, without those that have no column; ``networks`` are measured without an explainer."""
    found = [(ground, _lines(ground, name, networks), measures(ground.group)) for ground, name in grounds]
    return [_block(ground, lines, columns) for ground, lines, columns in found if lines and columns]


def _lines(ground: Ground, reference: str, networks: bool) -> list[Line]:
    if networks:
        return [Line(method, runs, "") for method, runs in ground.group.methods.items()]
    return lines_of(ground.group, reference, "methods", with_controls=False)


def _block(ground: Ground, lines: Sequence[Line], measures: Sequence[Measure]) -> Block:
    headings = tuple(Heading.of(measure, ground.style) for measure in measures)
    return Block(ground, headings, rows_of(ground, measures, lines))


def _by_dataset(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    names = dict.fromkeys(block.group.dataset for block in blocks)
    return {name: sorted((b for b in blocks if b.group.dataset == name), key=_by_size) for name in names}


def _by_size(block: Block) -> tuple[int, str]:
    return len(block.batch), block.batch


# ---- ExCon, tables 1 and 2 -------------------------------------------------------------------------------------------


def _by_batch(name: str, title: str, blocks: Sequence[Block]) -> Iterator[Table]:
    """Make a table of one measure: a row for each batch size, a column for each method, (a) and (b) by data set."""
    if not blocks:
        return
    direction = DIRECTIONS[blocks[0].headings[0].arrow]
    parts = _by_dataset([block.without_arrows for block in blocks])
    methods = list(dict.fromkeys(row.label for block in blocks for row in block.rows))
    above = dict(zip(parts, _lettered(parts), strict=True))
    rows = [
        Row(label, _transposed(block, methods), group=above[dataset])
        for dataset, own in parts.items()
        for label, block in zip(_told_apart(own), own, strict=True)
    ]
    unit = " in %" if blocks[0].rows[0].entries[0].percent else ""
    headings = tuple(Heading(f"method.{method}", method) for method in methods)
    shown = f"{title}{unit} by batch size"
    corner = "batch size" if all(block.batch for block in blocks) else "setting"
    yield Table(name, shown, _caption(shown, parts, direction), headings, tuple(rows), corner, _where(parts))


def _lettered(names: Iterable[str]) -> list[str]:
    """Return ``(a) name``, where there are several."""
    every = list(names)
    return (
        [f"({ascii_lowercase[i % 26]}) {name}" for i, name in enumerate(every)]
        if len(every) > 1
        else ["" for _ in every]
    )


def _told_apart(blocks: Sequence[Block]) -> list[str]:
    """Return what tells the groups of one data set apart: their batch sizes, with more words where these are equal."""
    sizes = [block.batch for block in blocks]
    return [
        size if size and sizes.count(size) == 1 else ", ".join(filter(None, (size, *_particulars(block.group))))
        for size, block in zip(sizes, blocks, strict=True)
    ]


def _particulars(group: Group) -> tuple[str, ...]:
    """Return recipe and architecture in words: as far as they tell the group from others, else what is known."""
    return group.told or (f"recipe {group.recipe}" if group.recipe else group.arch or "one training",)


def _transposed(block: Block, methods: Sequence[str]) -> tuple[Entry, ...]:
    found = {row.label: row.entries[0] for row in block.rows}
    return tuple(found.get(method, Entry()) for method in methods)


# ---- ExCon, tables 3 to 8 --------------------------------------------------------------------------------------------


def _drops(grounds: Sequence[tuple[Ground, str]]) -> Iterator[Table]:
    """Make a table of five columns for each threshold and data set, with a block for each batch size."""
    every = [key.partition("@")[::2] for ground, _ in grounds for key in ground.group.first.scores.columns]
    for kept in dict.fromkeys(parameter for name, parameter in every if name in MASKED_SHARE):
        parts = _by_dataset(_blocks(grounds, lambda group, kept=kept: _kept(group, kept)))  # type: ignore[misc]
        for dataset, blocks in parts.items():
            title = f"Drop and increase of confidence, {_share(kept)}"
            name = slug("excon-drop", _percent(kept), dataset if len(parts) > 1 else "")
            yield _stacked(name, title, {dataset: blocks})


def _kept(group: Group, kept: str) -> list[Measure]:
    found = {measure.key: measure for measure in masked_measures(group)}
    return [relabel(found[f"{name}@{kept}"], label) for name, label in DROP.items() if f"{name}@{kept}" in found]


def _percent(kept: str) -> str:
    """Return ``0.15`` as ``15``, and the name of a mask without a threshold as it is."""
    try:
        return f"{float(kept) * 100:g}"
    except ValueError:
        return kept


def _share(kept: str) -> str:
    shown = _percent(kept)
    return f"{shown} mask" if shown == kept else f"{shown}\u00a0% of the pixels kept"


# ---- the facets of the 2026 paper ------------------------------------------------------------------------------------


def _facets(grounds: Sequence[tuple[Ground, str]]) -> Iterator[Table]:
    complete = [(ground, name) for ground, name in grounds if len(_present(ground.group, FACETS)) == len(FACETS)]
    wanted = {"model.accuracy": ("", "accuracy"), **FACETS, **LOCALISATION}
    blocks = _blocks(complete, lambda group: _present(group, wanted))
    if blocks:
        yield _stacked("clxai-table", "Facets of explanation quality", _by_dataset(blocks))


# ---- the table that is asked for -------------------------------------------------------------------------------------


def asked_table(grounds: Sequence[tuple[Ground, str, Sequence[str]]]) -> Table:
    """Make the headline table of all groups in one; each ground comes with its reference and its primary columns."""
    blocks = [_headline(ground, reference, primary) for ground, reference, primary in grounds]
    references = dict.fromkeys(reference for _, reference, _ in grounds)
    table = _stacked("table", "Methods compared", _by_dataset(blocks))
    style = grounds[0][0].style
    return replace(table, controls_on=f"controls on {listed(references)}", caption=style.caption or table.caption)


def _headline(ground: Ground, reference: str, primary: Sequence[str]) -> Block:
    group, known = ground.group, measures_by_name(ground.group)
    chosen = [known[key] for key in ground.style.columns if key in known]
    lines = lines_of(group, reference, "methods", with_controls=True, style=ground.style)
    return _block(
        ground,
        lines or [Line(method, runs, "") for method, runs in group.methods.items()],
        chosen if ground.style.columns else headline_measures(group, primary),
    )


# ---- shared by all ---------------------------------------------------------------------------------------------------


def _stacked(name: str, title: str, parts: dict[str, list[Block]]) -> Table:
    """Put the blocks below each other; a column that a group lacks stays empty there."""
    blocks = [block for own in parts.values() for block in own]
    headings = list({heading.key: heading for block in blocks for heading in block.headings}.values())
    rows = [
        replace(row, group=above, entries=_filled(row, block.headings, headings))
        for above, block in zip(_above(parts), blocks, strict=True)
        for row in block.rows
    ]
    told = sorted({real_explainers(block.group)[0] for block in blocks if real_explainers(block.group)})
    maps = f" with {listed(told)} maps" if told else ""
    return Table(name, title, _caption(f"{title}{maps}", parts), tuple(headings), tuple(rows), "method", _where(parts))


def _above(parts: dict[str, list[Block]]) -> list[str]:
    """Return the headings of the blocks: the data set where there are several, and what tells its groups apart."""
    found = []
    for letter, blocks in zip(_lettered(parts), parts.values(), strict=True):
        told = _told_apart(blocks) if len(blocks) > 1 else [""]
        sized = [
            f"batch size {text}" if block.batch and text else text for text, block in zip(told, blocks, strict=True)
        ]
        found += [", ".join(filter(None, (letter, text))) for text in sized]
    return found


def _filled(row: Row, own: Sequence[Heading], headings: Sequence[Heading]) -> tuple[Entry, ...]:
    entries = {heading.key: entry for heading, entry in zip(own, row.entries, strict=True)}
    return tuple(entries.get(heading.key, Entry()) for heading in headings)


def _where(parts: dict[str, list[Block]]) -> str:
    return "; ".join(place(block.group) for blocks in parts.values() for block in blocks)


def _caption(title: str, parts: dict[str, list[Block]], *more: str) -> str:
    """Write a caption: what and on which images, what holds of every group, then what holds of single ones."""
    blocks = [block for own in parts.values() for block in own]
    letters = [text.partition(" ")[0] for text in _lettered(parts)]
    images = [
        " ".join(filter(None, (letter, data_place(own[0].group))))
        for letter, own in zip(letters, parts.values(), strict=True)
    ]
    shared = [words for words in blocks[0].sentences if all(words in block.sentences for block in blocks)]
    names = [above or clean(block.group.dataset) for above, block in zip(_above(parts), blocks, strict=True)]
    own = [
        f"{name}: {' '.join(words for words in block.sentences if words not in shared)}"
        for name, block in zip(names, blocks, strict=True)
        if any(words not in shared for words in block.sentences)
    ]
    return " ".join([f"{title} on {listed(images)}.", *more, *shared, *own])
