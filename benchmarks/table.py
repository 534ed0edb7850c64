"""Writes the table of ``benchmarks/README.md`` from ``benchmarks/results.json``: ``python -m benchmarks.table``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS
from xeval.runtime.tables import escape_bars, markdown_row

PAGE = Path(__file__).with_name("README.md")
START, STOP = "<!-- written by python -m benchmarks.table -->", "<!-- end -->"
HEAD = "| claim | target | measured (median, spread) | passes | met | what it depends on |\n|---|---|---|---|---|---|"
VERDICT = {True: "yes", False: "**no**", None: "–"}


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def measured(row: dict[str, Any]) -> str:
    """Return median and spread with their unit."""
    low, high = row["spread"]
    return with_unit(number(row["value"]), row["unit"]) + ("" if low == high else f" ({number(low)}–{number(high)})")


def claimed(row: dict[str, Any]) -> str:
    """Return the target with its unit."""
    return with_unit(row["target"], row["unit"]) if row["target"] else "–"


def with_unit(text: str, unit: str) -> str:
    """Join a number and its unit."""
    return f"{text}{unit}" if unit == "×" else f"{text} {unit}"


def line(row: dict[str, Any]) -> str:
    """Return one row of the table."""
    passes = ", ".join(f"{side} {count:,}" for side, count in row["passes"].items()) or "–"
    cells = [row["claim"], claimed(row), measured(row), passes, VERDICT[row["met"]], row["note"]]
    return markdown_row(map(escape_bars, cells))


def machines(results: list[dict[str, Any]]) -> str:
    """Describe each machine and its versions once."""
    texts = []
    for found in (answer["machine"] for answer in results):
        where = [found["processor"], f"{found['cpus']} CPUs, {found['threads']} threads", found["system"]]
        where += [found["gpu"]] if "gpu" in found else []
        versions = [f"{name} {version}" for name, version in found["versions"].items()]
        texts.append(f"Measured on {', '.join(where)}; Python {found['python']}, {', '.join(versions)}.")
    return "\n".join(dict.fromkeys(texts))


def table(results: list[dict[str, Any]]) -> str:
    """Return machines, versions and one line per claim, in Markdown."""
    rows = [line(row) for answer in results for row in answer["rows"]]
    return "\n".join([machines(results), "", HEAD, *rows])


def page(text: str, results: list[dict[str, Any]]) -> str:
    """Return the page with the part between the two marks replaced."""
    before, _, rest = text.partition(START)
    after = rest.partition(STOP)[2]
    return f"{before}{START}\n{table(results)}\n{STOP}{after}"


def main() -> None:
    """Write the table into the page."""
    PAGE.write_text(page(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
