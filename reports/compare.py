"""``xeval compare RUNS/``: collect → summarise → tables, figures, sentences → one folder, replaced file by file."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.errors import ResourceError, UsageError, unknown

from .captions import place
from .collect import Collection, Group, collect
from .contents import Rows, tables
from .figures import figures
from .page import Section, render
from .provenance import provenance, status
from .summary import SEEDS_FOR_TESTS, cell, column_measure, controls, gain_measure, model_measures
from .tables import Table, to_csv, to_latex, to_markdown, to_terminal
from .verdict import verdict

REFERENCE = "supcon"
SCHEMA = "xeval.comparison/1"
KEY = "* best mean, ± std (n−1) over seeds, [n] images if fewer are defined, ‡ does not beat its controls"
#: What a report may own beside itself; anything else in the folder is never touched.
_OWNED = re.compile(r"(tables|figures)/[a-z0-9][a-z0-9.-]{0,120}\.(md|csv|tex|svg|pdf)")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found and where it left it."""

    out: Path
    page: Path
    results: dict[str, Any]
    sections: tuple[Section, ...]
    files: tuple[str, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, section by section."""
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def verdict(self) -> str:
        """One paragraph a section."""
        return "\n\n".join(section.verdict.text for section in self.sections)

    @property
    def terminal_table(self) -> str:
        """The headline tables as plain text, at most 100 columns wide."""
        shown = "\n".join(to_terminal(section.tables[0]) for section in self.sections if section.tables)
        return f"{shown}\n{KEY}\n"


def compare(
    runs: Path,
    out: Path,
    *,
    reference: str | None = None,
    primary: Sequence[str] | None = None,
    rows: Rows = "methods",
) -> Comparison:
    """Compare every scored run below ``runs`` and write the report to ``out``.

    Leaves report.html, results.json, tables/*.{md,csv,tex} and figures/*.{svg,pdf}. Raises DataError (see ``collect``)
    where runs must not be compared, UsageError for a reference or primary column that nobody has.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "name a folder for the report")
    collection = collect(runs)
    sections = tuple(
        _section(group, _reference(collection, group, reference), _primary(group, primary), rows)
        for group in collection.groups
    )
    contents = _files(collection, sections)
    try:
        _replace(out, contents)
    except OSError as error:
        size = sum(map(len, contents.values()))
        raise ResourceError(
            f"the report cannot be written to {out} ({error.strerror}; it needs {size / 2**20:.1f} MiB)",
            "make room or choose another folder with --out; the old report is as it was",
        ) from None
    return Comparison(out, out / "report.html", json.loads(contents["results.json"]), sections, tuple(sorted(contents)))


def _reference(collection: Collection, group: Group, asked: str | None) -> str:
    """The declared reference; else supcon; else the first method."""
    methods = {method for every in collection.groups for method in every.methods}
    if asked is not None and asked not in methods:
        raise unknown("reference method", asked, methods)
    return next(name for name in (asked, REFERENCE, *group.methods) if name in group.methods)


def _primary(group: Group, asked: Sequence[str] | None) -> tuple[str, ...]:
    columns = group.first.scores.columns
    for key in asked or ():
        if key not in columns:
            raise unknown("column", key, columns)
    return tuple(key for key in (asked or group.first.scores.protocol.primary) if key in columns)


def _section(group: Group, reference: str, primary: Sequence[str], rows: Rows) -> Section:
    return Section(
        group,
        reference,
        tuple(tables(group, reference, primary, rows)),
        tuple(figures(group, primary)),
        verdict(group, reference, primary),
    )


def _files(collection: Collection, sections: Sequence[Section]) -> dict[str, bytes]:
    """Every file of the report by its name below the output folder."""
    files: dict[str, bytes] = {}
    for section in sections:
        for table in section.tables:
            for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
                files[f"tables/{table.slug}.{suffix}"] = text.encode()
        for figure in section.figures:
            files[f"figures/{figure.slug}.svg"] = figure.svg.encode()
            files[f"figures/{figure.slug}.pdf"] = figure.pdf
    results = _results(collection, sections, [*files, "report.html", "results.json"])
    files["results.json"] = (json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    files["report.html"] = render(collection, sections, results).encode()
    return files


def _results(collection: Collection, sections: Sequence[Section], files: Sequence[str]) -> dict[str, Any]:
    """Everything the page shows, at full precision and with the original names."""
    return {
        "schema": SCHEMA,
        "files": sorted(files),
        "status": [[what, count] for what, count, _ in status(collection)],
        "excluded": [{"path": item.path, "reason": item.reason, "remedy": item.remedy} for item in collection.excluded],
        "sections": [_section_results(section) for section in sections],
    }


def _section_results(section: Section) -> dict[str, Any]:
    group = section.group
    data = group.first.scores.dataset
    return {
        "dataset": group.dataset,
        "recipe": group.recipe,
        "place": place(group),
        "reference": section.reference,
        "n": data.n,
        "manifest": data.manifest,
        "protocol": group.first.scores.protocol.model_dump(mode="json"),
        "verdict": section.verdict.text,
        "ordering": section.verdict.ordering,
        "threats": list(section.verdict.threats),
        "marks_from_seeds": SEEDS_FOR_TESTS,
        "methods": {method: _method_results(group, method) for method in group.methods},
        "runs": [provenance(run) for run in group.runs],
    }


def _method_results(group: Group, method: str) -> dict[str, Any]:
    runs = group.methods[method]
    measures = [column_measure(group, key) for key in group.first.scores.columns]
    explainers = {}
    for explainer in group.first.scores.explainers:
        cells = {measure.key: cell(runs, measure, explainer) for measure in measures}
        floors = [c for c in ("random", "random-cam") if c in controls(group) and c != explainer]
        gains = [gain_measure(measure, floor) for measure in measures if measure.direction for floor in floors]
        cells |= {measure.key: cell(runs, measure, explainer) for measure in gains}
        explainers[explainer] = {key: _cell_results(found) for key, found in cells.items()}
    model = {measure.key: _cell_results(cell(runs, measure, "")) for measure in model_measures()}
    return {"seeds": [run.seed for run in runs], "model": model, "explainers": explainers}


def _cell_results(found: Any) -> dict[str, Any]:
    return {"mean": found.mean, "std": found.std, "n": found.n, "values": list(found.values)}


def _replace(out: Path, files: dict[str, bytes]) -> None:
    """Write beside ``out``, then move each file into place: a kill leaves old or new files, never half of one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
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
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _owned(out: Path) -> set[str]:
    """Tables and figures that an earlier report in this folder says it wrote."""
    try:
        listed = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    names = listed.get("files", []) if isinstance(listed, dict) and listed.get("schema") == SCHEMA else []
    return {name for name in names if isinstance(name, str) and _OWNED.fullmatch(name)}
