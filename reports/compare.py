"""``xeval compare RUNS/``: collect → summarise → tables, figures, sentences → one folder, replaced file by file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xeval.errors import DataError, ResourceError, UsageError, unknown
from xeval.reports.against import SCHEMA, Earlier, read_earlier
from xeval.reports.collect import Collection, Group, collect
from xeval.reports.contents import analysis_of, tables
from xeval.reports.declaration import Declaration, declare, declared_style
from xeval.reports.explainers import explainer_verdict
from xeval.reports.figures import explainer_figures, figures
from xeval.reports.folders import Excluded
from xeval.reports.gallery import Choice, Gallery, Pools, chosen, explainer_gallery, fitting, gallery_of, read_pools
from xeval.reports.page import Section, render
from xeval.reports.paper_tables import paper_tables
from xeval.reports.results import results_of
from xeval.reports.rows import Ground, Rows
from xeval.reports.sheets import measures_by_name
from xeval.reports.style import Style, style_of
from xeval.reports.summary import real_explainers
from xeval.reports.tables import Table, to_terminal
from xeval.reports.text import clean
from xeval.reports.verdict import verdict
from xeval.reports.writers import WRITERS
from xeval.runtime.files import folder_beside, read_json, require_writable

REFERENCE = "supcon"
KEY = (
    "* best mean, where a column is tested with all that are not significantly worse;\n"
    "± std (n−1) over seeds; [n] images if fewer are defined, [n compared] by the comparison;\n"
    "[n < 30] [n < 5] too few images or events for a mark; † § differs from the reference (declared,\n"
    "exploratory); ‡ not shown to be better than its controls"
)
FILES = ("report.html", "results.json", "methods.tex", "references.bib")
#: A report may own these files beside itself; anything else in the folder is never touched.
_OWNED = re.compile(r"(tables|figures)/[a-z0-9][a-z0-9.-]{0,120}\.(md|csv|tex|svg|pdf)")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found and where it left it."""

    out: Path
    page: Path
    results: dict[str, Any]
    sections: tuple[Section, ...]
    layouts: tuple[Table, ...]
    files: tuple[str, ...]
    excluded: tuple[Excluded, ...]

    @property
    def left_out(self) -> list[str]:
        """Return a line for each folder that was left out or could not be read, with what to do."""
        told = [(clean(one.path, 200), clean(one.reason), clean(one.remedy, 300)) for one in self.excluded]
        return [f"left out: {path} {reason} ({remedy})" for path, reason, remedy in told]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return all tables, section by section, then the papers' layouts."""
        return (*(table for section in self.sections for table in section.tables), *self.layouts)

    @property
    def verdict(self) -> str:
        """Return one paragraph a section."""
        return "\n\n".join(section.verdict.text for section in self.sections)

    @property
    def terminal_table(self) -> str:
        """Return the headline tables as plain text, at most 100 columns wide."""
        shown = "\n".join(to_terminal(section.tables[0]) for section in self.sections if section.tables)
        return f"{shown}\n{KEY}\n"


def compare(
    runs: Path | Sequence[Path],
    out: Path,
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    rows: Rows = "methods",
    against: Path | None = None,
    gallery: str | None = None,
    gallery_ids: Sequence[str] | None = None,
    style: Style | Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare every scored run below ``runs``, a folder or several, and write the report to ``out``.

    Leaves report.html, results.json, methods.tex, references.bib, tables/*.{md,csv,tex} and figures/*.{svg,pdf}, and
    comparison.toml where there is none yet: in ``runs``, or in ``out`` where these are several folders. ``against``, an
    earlier results.json, marks what has changed. ``rows`` compares methods, or explainers on the same checkpoints;
    ``reference`` is then an explainer. ``gallery`` is a rule of :mod:`~reports.gallery` that chooses its
    images, ``gallery_ids`` names them. ``style`` says how tables are printed, where comparison.toml does not.
    Raises DataError (see ``collect``) where runs must not be compared, UsageError for a reference, column or method
    that nobody has, ResourceError where the report cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "name a folder for the report")
    require_writable(out)
    roots = [runs] if isinstance(runs, Path) else list(runs)
    choice = chosen(gallery, gallery_ids)
    collection = collect(*roots)
    pools = read_pools(collection.groups, choice, rows)
    explainer = reference if rows == "explainers" else None
    if explainer is not None:
        _require_explainer(collection, explainer)
    method = reference if rows == "methods" else None
    folder = roots[0] if len(roots) == 1 else out
    printed = style_in(folder, collection, style)
    declaration = declaration_of(folder, collection, method, primary)
    earlier = read_earlier(against)
    sections = tuple(
        _section(ordered(group, printed), in_group(group, declaration), rows, explainer, earlier, own, choice, printed)
        for group, own in zip(collection.groups, pools, strict=True)
    )
    papers = (
        paper_tables([(Ground(one.group, one.analysis, earlier, printed), one.reference) for one in sections])
        if rows == "methods"
        else []
    )
    contents = _files(collection, sections, papers, printed)
    try:
        _replace(out, contents)
    except OSError as error:
        size = sum(map(len, contents.values()))
        raise ResourceError(
            f"the report cannot be written to {out} ({error.strerror}; it needs {size / 2**20:.1f} MiB)",
            "make room or choose another folder with --out; the old report is as it was",
        ) from None
    return Comparison(
        out,
        out / "report.html",
        json.loads(contents["results.json"]),
        sections,
        tuple(papers),
        tuple(sorted(contents)),
        collection.excluded,
    )


def style_in(folder: Path, collection: Collection, given: Style | Mapping[str, Any] | None) -> Style:
    """Return the style that the folder declares, changed by what was given; names that nobody has are refused."""
    style = style_of(declared_style(folder), given or {})
    columns = {key for group in collection.groups for key in measures_by_name(group)}
    for kind, asked, known in (("column", style.columns, columns), ("method", style.methods, _methods(collection))):
        for name in asked:
            if name not in known:
                raise unknown(kind, name, known)
    return style


def ordered(group: Group, style: Style) -> Group:
    """Return the group with its methods in the order that the style asks for."""
    first = [name for name in style.methods if name in group.methods]
    return replace(group, methods={name: group.methods[name] for name in dict.fromkeys([*first, *group.methods])})


def _methods(collection: Collection) -> list[str]:
    return list(dict.fromkeys(method for group in collection.groups for method in group.methods))


def declaration_of(
    folder: Path,
    collection: Collection,
    reference: str | None,
    primary: Sequence[str] | None,
    *,
    keep: bool = True,
) -> Declaration:
    """Declare what is compared; names that nobody has are refused before anything is written down."""
    methods = _methods(collection)
    if reference is not None and reference not in methods:
        raise unknown("reference method", reference, methods)
    for group in collection.groups:
        for key in primary or ():
            if key not in group.first.scores.columns:
                raise unknown("column", key, group.first.scores.columns)
    first = collection.groups[0].first.scores
    usual = REFERENCE if REFERENCE in methods else methods[0]
    known = tuple(key for key in first.protocol.primary if key in first.columns)
    return declare(folder, usual, known, reference, primary, keep=keep)


def in_group(group: Group, declaration: Declaration) -> Declaration:
    """Reduce the declaration to what a group can follow: its own methods and columns."""
    reference = next(name for name in (declaration.reference, REFERENCE, *group.methods) if name in group.methods)
    known = tuple(key for key in declaration.primary if key in group.first.scores.columns)
    return replace(declaration, reference=reference, primary=known)


def _require_explainer(collection: Collection, name: str) -> None:
    for group in collection.groups:
        if name not in (known := real_explainers(group)):
            raise unknown("reference explainer", name, known)


def _section(
    group: Group,
    declaration: Declaration,
    rows: Rows,
    explainer: str | None,
    earlier: Earlier,
    pools: Pools,
    choice: Choice,
    style: Style,
) -> Section:
    method, primary = declaration.reference, declaration.primary
    analysis = analysis_of(group, declaration, rows, explainer)
    if rows == "methods":
        reference = method
        said = verdict(group, method, primary, analysis, declaration.sentence)
        drawn = figures(group, primary, method, analysis)
        gallery = gallery_of(group, pools, method, choice)
    else:
        reference = explainer or next(iter(real_explainers(group)), "none")
        said = explainer_verdict(group, reference, primary, analysis, declaration.sentence_of_columns)
        drawn = explainer_figures(group, primary, method, reference, analysis, pools)
        gallery = explainer_gallery(group, pools, method, reference, choice)
    shown = tuple(tables(group, method, primary, rows, analysis, earlier, style))
    return Section(group, reference, shown, tuple(drawn), said, declaration, analysis, gallery, rows)


def _files(
    collection: Collection, sections: Sequence[Section], papers: Sequence[Table], style: Style
) -> dict[str, bytes]:
    """Make every file of the report, by its name below the output folder."""
    files: dict[str, bytes] = {}
    for table in [*papers, *(table for section in sections for table in section.tables)]:
        for suffix, write in WRITERS.items():
            files[f"tables/{table.slug}.{suffix}"] = write(table, style).encode()
    for section in sections:
        for figure in section.figures:
            files[f"figures/{figure.slug}.svg"] = figure.svg.encode()
            files[f"figures/{figure.slug}.pdf"] = figure.pdf
    told = [section.methods for section in sections]
    files["methods.tex"] = "\n".join(one.tex for one in told).encode()
    files["references.bib"] = "\n".join(dict.fromkeys(one.bib for one in told)).encode()
    names = [*files, "report.html", "results.json"]

    def page(galleries: Sequence[Gallery | None]) -> tuple[dict[str, Any], bytes]:
        shown = [replace(section, gallery=own) for section, own in zip(sections, galleries, strict=True)]
        found = results_of(collection, shown, names)
        return found, render(collection, shown, papers, found, style).encode()

    results, files["report.html"] = fitting(page, [section.gallery for section in sections])
    files["results.json"] = (json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    return files


def _replace(out: Path, files: dict[str, bytes]) -> None:
    """Write beside ``out``, then move each file into place: a kill leaves old or new files, never half of one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in _leftovers(out):
        shutil.rmtree(leftover, ignore_errors=True)
    with folder_beside(out) as staging:
        for name, data in files.items():
            path = staging / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        stale = _owned(out) - set(files)
        for name in sorted(files, key=lambda name: (name == "report.html", name)):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(out / name)
        for name in stale:
            (out / name).unlink(missing_ok=True)


def _leftovers(out: Path) -> list[Path]:
    """Return the folders beside ``out`` in which killed comparisons of earlier versions began their report."""
    name = re.compile(rf"\.{re.escape(out.name)}-[a-z0-9_]{{8}}")
    found = [path for path in out.parent.iterdir() if name.fullmatch(path.name) and path.is_dir()]
    return [path for path in found if all(_of_a_report(file, path) for file in path.rglob("*"))]


def _of_a_report(path: Path, folder: Path) -> bool:
    name = path.relative_to(folder).as_posix()
    return name in FILES or bool(_OWNED.fullmatch(name)) or (path.is_dir() and name in ("tables", "figures"))


def _owned(out: Path) -> set[str]:
    """Return the tables and figures that an earlier report in this folder says it wrote."""
    try:
        listed = read_json(out / "results.json", SCHEMA).get("files", [])
    except (OSError, DataError):
        return set()
    names = listed if isinstance(listed, list) else []
    return {name for name in names if isinstance(name, str) and _OWNED.fullmatch(name)}
