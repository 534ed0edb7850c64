"""One self-contained page: no request leaves it, no style attribute enters it, the same inputs give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.reports.captions import place
from xeval.reports.collect import Collection, Group
from xeval.reports.contrasts import Analysis
from xeval.reports.costs import costs
from xeval.reports.declaration import Declaration
from xeval.reports.drawing import Figure
from xeval.reports.gallery import Gallery
from xeval.reports.methods import Methods, methods
from xeval.reports.provenance import notes, origins, status, undefined, versions, warnings
from xeval.reports.rows import Rows
from xeval.reports.style import Style
from xeval.reports.tables import Table
from xeval.reports.text import clean, slug
from xeval.reports.verdict import Verdict
from xeval.reports.writers import WRITERS

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A section is everything that the page shows about one group of runs."""

    group: Group
    reference: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    verdict: Verdict
    declaration: Declaration
    analysis: Analysis
    gallery: Gallery | None = None
    rows: Rows = "methods"

    @property
    def slug(self) -> str:
        """Return the anchor of the section."""
        return slug(*self.group.names)

    @property
    def methods(self) -> Methods:
        """Return the methods paragraph."""
        return methods(self.group, self.declaration, self.reference if self.rows == "explainers" else None)

    @property
    def title(self) -> str:
        """Return the data set, and what else tells the section from others."""
        return " · ".join([self.group.dataset, *self.group.told])


def render(
    collection: Collection,
    sections: Sequence[Section],
    papers: Sequence[Table],
    results: dict[str, Any],
    style: Style,
) -> str:
    """Write the whole page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    sheet, script = _asset("page.css"), _asset("page.js")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clean": clean, "slug": slug, "embedded": lambda shown: _trusted(shown.source)}
    page = environment.get_template("page.html.j2").render(
        policy=_policy(sheet, script),
        style=_trusted(sheet),
        script=_trusted(script),
        results=_trusted(script_json(results)),
        sections=[_section(section, style) for section in sections],
        layouts=[_exhibit(table, style) for table in papers],
        status=status(collection),
        excluded=collection.excluded,
        version=versions(collection),
    )
    return page.strip() + "\n"


def _trusted(text: str) -> Any:
    """Let text enter the page unescaped, here only: our assets, rewritten figures, escaped JSON, base64."""
    from markupsafe import Markup

    return Markup(text)


def _printable(value: Any) -> Any:
    """Take the control characters out of every text that a template prints."""
    return clean(value, 4000) if type(value) is str else value


def _verbatim(text: str) -> Any:
    """Return text of several lines, escaped and otherwise untouched."""
    from markupsafe import escape

    return escape(text)


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: nothing may be fetched, only these two inline blocks apply."""

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """Write JSON that cannot leave a ``<script>`` element."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(section: Section, style: Style) -> dict[str, Any]:
    return {
        "slug": section.slug,
        "title": section.title,
        "place": place(section.group),
        "verdict": section.verdict,
        "reference": section.reference,
        "sample": "method" if section.rows == "methods" else "checkpoint",
        "tables": [_exhibit(table, style) for table in section.tables],
        "lead": 1 + any(table.title.startswith("Differences") for table in section.tables[:2]),
        "gallery": section.gallery,
        "figures": [{"figure": figure, "svg": _trusted(figure.embedded)} for figure in section.figures],
        "methods": _paragraph(section),
        "conventions": section.group.conventions,
        "columns": section.group.first.scores.columns,
        "protocol": section.group.first.scores.protocol,
        "origins": origins(section.group),
        "costs": costs(section.group),
        "undefined": undefined(section.group),
        "warnings": warnings(section.group),
        "notes": notes(section.group),
    }


def _paragraph(section: Section) -> dict[str, Any]:
    """Return the methods paragraph with the texts behind its copy buttons."""
    found = section.methods
    return {"text": _verbatim(found.text), "texts": {"LaTeX": _verbatim(found.tex), "BibTeX": _verbatim(found.bib)}}


def _exhibit(table: Table, style: Style) -> dict[str, Any]:
    """Return a table with the texts behind its copy buttons."""
    names = {"tex": "LaTeX", "md": "Markdown", "csv": "CSV"}
    return {"table": table, "texts": {name: _verbatim(WRITERS[to](table, style)) for to, name in names.items()}}
