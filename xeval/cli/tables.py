"""Prints the table of one scored checkpoint, for the terminal and in Markdown."""

from __future__ import annotations

from typing import Any

from xeval.metrics.metric import ARROWS
from xeval.runtime.tables import markdown_lines


def score_table(summary: dict[str, Any]) -> str:
    """Return a text table with a row per score and a column per explainer, and the conventions below it.

    Each row has the arrow of its direction; a cell shows n where n < N.
    """
    names = list(summary["scores"])
    total = summary["dataset"]["n"]
    header = f"{'':<26}" + "".join(f"{name[:11]:>12}" for name in names)
    lines = [_title(summary), "", header, "-" * len(header)]
    for column, about in summary["columns"].items():
        cells = [_cell(summary["scores"][name].get(column), total) for name in names]
        lines.append(f"{column + ' ' + ARROWS[about['direction']]:<26}" + "".join(f"{cell:>12}" for cell in cells))
    controls = [name for name, about in summary["explainers"].items() if about["control"]]
    lines += ["", f"controls (never ranked): {', '.join(controls)}", *(f"· {text}" for text in summary["conventions"])]
    return "\n".join(lines + [f"warning: {text}" for text in summary["warnings"]])


def markdown_table(summary: dict[str, Any], spread: str = "interval") -> str:
    """Return a Markdown table with one row per explainer; scores without a direction are left out.

    ``spread`` is what stands behind ±. ``interval`` means 1.96 standard errors over images, which describes images like
    these for this one checkpoint. ``std`` means the standard deviation of the images, as the 2026 paper prints it; it
    does not shrink with n.
    """
    ranked = {name: about for name, about in summary["columns"].items() if about["direction"]}
    header = ["explainer", *(f"{name} {ARROWS[about['direction']]}" for name, about in ranked.items())]
    meaning = "95 % interval over images" if spread == "interval" else "standard deviation of the images"
    rows = []
    for explainer, columns in summary["scores"].items():
        shown = f"*{explainer}*" if summary["explainers"][explainer]["control"] else explainer
        cells = [_spread(columns.get(name), spread, summary["dataset"]["n"]) for name in ranked]
        rows.append([shown, *cells])
    return "\n".join([f"{_title(summary)}; mean ± {meaning}", "", *markdown_lines(header, rows, numbers=True)])


def _spread(found: dict[str, Any] | None, spread: str, total: int) -> str:
    if found is None or found["mean"] is None:
        return "—"
    few = "" if found["n"] == total else f" (n = {found['n']})"
    if found["se"] is None:
        return f"{found['mean']:.3f}{few}"
    width = found["se"] * (1.96 if spread == "interval" else found["n"] ** 0.5)
    return f"{found['mean']:.3f} ± {width:.3f}{few}"


def _title(summary: dict[str, Any]) -> str:
    data, model, explained = summary["dataset"], summary["model"], summary["explained"]
    chosen = "" if data["selection"] == "all" else f" of {data['of']} ({data['selection']})"
    return (
        f"{summary['checkpoint']['name']} on {data['name']}/{data['split']}, n = {data['n']}{chosen}: accuracy "
        f"{_number(model['accuracy'])}, p0 {_number(model['p0'])}, ECE {_number(model['ece'])}; {explained['layer']}, "
        f"map {'×'.join(str(side) for side in explained['cam_size'])}"
    )


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _cell(found: dict[str, Any] | None, total: int) -> str:
    if found is None or found["mean"] is None:
        return "—"
    mean = found["mean"]
    text = f"{mean:.3g}" if mean and abs(mean) < 0.01 else f"{mean:.3f}"
    return text if found["n"] == total else f"{text}|{found['n']}"
