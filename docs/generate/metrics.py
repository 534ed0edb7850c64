"""Writes a page for every registered metric.

A page shows what the metric declares, the docstring of the function that computes it, the protocols and the comparisons
with other libraries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from docs.generate.shared import bibtex, footer, parity, tests
from docs.generate.text import described, listed, page, section, shown, table
from xeval.explainers import CONTROLS
from xeval.metrics.metric import ARROWS, METRICS, Column, Family, Metric
from xeval.reports import standing
from xeval.scoring.options import ScoreOptions
from xeval.scoring.protocols import PROTOCOLS, Protocol

BETTER = {**ARROWS, None: "–"}

PLANTED: dict[Family, str] = {
    "faithfulness": "a map of the very pixels whose mean is the score beats random maps, and these beat its inverse",
    "localisation": "a map of the object beats random maps, and these beat its inverse",
    "complexity": "a single pixel beats a Gaussian blob, and the blob beats a uniform map",
    "continuity": "a constant map beats a smooth one, and the smooth one beats one drawn anew for every version",
    "contrastivity": "a map that moves away for another class beats one that moves half as far, and that one beats one "
    "that stays",
    "randomisation": "a map that becomes noise under another network or class beats one that knows neither",
    "model": "the value is the same for every map",
}
"""What ``tests/metrics/test_metrics.py`` requires of every metric of a family."""

BESIDE: dict[Family, tuple[tuple[str, ...], str]] = {
    "complexity": (("centre", "random-cam"), "a map that knows nothing can be as simple as you like"),
    "continuity": (
        ("centre", "constant"),
        "a map that ignores the image never changes, and gets the best value there is",
    ),
    "contrastivity": (
        ("edge", "untrained"),
        "the first does not know the class and has 1; the second has learned nothing",
    ),
    "randomisation": (("edge", "untrained"), "maps that owe nothing to what was learned"),
}
"""The controls to read beside a family for which the report does not mark (‡) the cells that fail to beat them."""


def native() -> dict[str, Metric]:
    """Return the metrics that are computed here, without those of Quantus and of installed plug-ins."""
    return {name: one for name, one in METRICS.items() if one.score.__module__.startswith("xeval.metrics.")}


# ---- metrics ---------------------------------------------------------------------------------------------------------


def metric_page(metric: Metric) -> str:
    """Return the page of one metric."""
    settings = metric.settings()
    return page(
        f"`{metric.name}`",
        f"Family: {metric.family}. {_asked_for(metric)} Symbols: [conventions](../conventions.md).",
        *described(metric.score),
        section("Columns", _columns(metric), *_notes(metric)),
        section("Settings", _settings(metric)),
        section("Convention", "Printed below every table that shows it:", f"> {metric.convention(settings)}"),
        section("Needs", _needs(metric)),
        section("In protocols", _protocols(metric)),
        section("Controls beside it", _beside(metric)),
        section("Checked", *_checked(metric)),
        section("Citation", *bibtex(metric.citation)),
        footer(metric.score),
    )


def _asked_for(metric: Metric) -> str:
    if metric.default:
        return "Computed by default."
    names = [name for name in (metric.name, metric.group) if name]
    return "Computed on request: " + " or ".join(f"`--metrics {name}`" for name in names) + "."


def _columns(metric: Metric) -> str:
    """Return the table of columns; columns that differ only in their parameter share the row of the first."""
    rows: dict[str, tuple[str, ...]] = {}
    for column in metric.columns(metric.settings()):
        name, param = _generic(column)
        meaning = column.title.rpartition(", ")[0] if param else column.title
        row = (f"`{name}`", BETTER[column.direction], _range(column), column.unit, meaning)
        rows.setdefault(name, row)
    return table(("column", "better", "range", "unit", "meaning"), list(rows.values()))


def _generic(column: Column) -> tuple[str, str]:
    name, _, param = column.name.partition("@")
    return (f"{name}@q" if param else name), param


def _range(column: Column) -> str:
    if column.low is None and column.high is None:
        return "any"
    low = "−∞" if column.low is None else f"{column.low:g}".replace("-", "−")
    return f"{low} to {'∞' if column.high is None else f'{column.high:g}'}"


def _notes(metric: Metric) -> list[str]:
    columns = metric.columns(metric.settings())
    found = ["One value an image."]
    if any(column.direction is None for column in columns):
        found.append("A column without an arrow is a diagnostic and never ranked.")
    params = dict.fromkeys(column.name.partition("@")[2] for column in columns)
    if any(params):
        found.append(
            f"@q is one of {listed([f'`@{param}`' for param in params if param])} unless other settings are given."
        )
    if metric.curves:
        found.append(f"{listed([f'`{name}`' for name in metric.curves])} keeps the whole curve of every image.")
    return [" ".join(found)]


def _settings(metric: Metric) -> str:
    fields = metric.settings.model_json_schema().get("properties", {})
    defaults = metric.settings().model_dump()
    rows = [
        (
            f"`{name}`",
            f"`{shown(defaults[name])}`",
            _allowed(about),
            _meaning(metric, name, about.get("description", "")),
        )
        for name, about in fields.items()
    ]
    if not rows:
        return "None."
    fixed = (
        "Fixed by the [protocol](../protocols.md) and hashed into every row; other values are "
        "[a protocol of your own](../extending.md#a-protocol)."
    )
    return f"{table(('setting', 'default', 'allowed', 'meaning'), rows)}\n\n{fixed}"


def _meaning(metric: Metric, setting: str, meaning: str) -> str:
    option = metric.name == "drop" and setting in ScoreOptions.model_fields
    return f"{meaning} (`--{setting}`)" if option else meaning


def _allowed(about: dict[str, Any]) -> str:
    if "enum" in about:
        return listed([f"`{value}`" for value in about["enum"]], "or")
    if about.get("type") == "boolean":
        return "`true` or `false`"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {about[key]:g}" for key, sign in signs.items() if key in about)


NEEDS = {
    "masks": "Object masks, or boxes, which are drawn as masks: left out where the data have none (`xeval data list`).",
    "explainer": "An explainer, which explains other images, classes or networks too: maps that were made elsewhere "
    "have no value.",
    "softmax": "A network whose probabilities are the softmax of its logits.",
    "one label": "Images of one class: left out where an image has several labels.",
    "other class": "A second class: left out where the network has one.",
}


def _needs(metric: Metric) -> str:
    found = [sentence for need, sentence in NEEDS.items() if need in metric.needs]
    return " ".join(found) or "Nothing beside the images, their classes and the network."


def _protocols(metric: Metric) -> str:
    rows = [(f"`{name}`", _changed(protocol, metric)) for name, protocol in ours() if metric.name in protocol.metrics]
    if not rows:
        return "In none: name it with `--metrics`."
    return table(("protocol", "settings"), rows)


def _changed(protocol: Protocol, metric: Metric) -> str:
    chosen, defaults = protocol.metric_settings(metric.name).model_dump(), metric.settings().model_dump()
    changed = [f"`{name}` = `{shown(value)}`" for name, value in chosen.items() if value != defaults[name]]
    return ", ".join(changed) or "the defaults"


def ours() -> Iterable[tuple[str, Protocol]]:
    """Return the protocols with their names."""
    return PROTOCOLS.items()


def _beside(metric: Metric) -> str:
    if metric.family in standing.MUST_BEAT_CONTROLS:
        return (
            f"{_linked(standing.FLOORS)}: the report marks a cell with ‡ where an explainer is not shown to be better "
            "than each of them on the same checkpoints, and shows the gain over a random map."
        )
    if metric.family not in BESIDE:
        return ""
    names, why = BESIDE[metric.family]
    return f"{_linked(names)}: {why}."


def _linked(names: Iterable[str]) -> str:
    return listed([f"[`{name}`](../explainers/controls.md#{name})" for name in names if name in CONTROLS])


def _checked(metric: Metric) -> list[str]:
    """Say how the metric is tested: the planted truth of its family, a second derivation, and the other libraries."""
    columns = {column.name.partition("@")[0] for column in metric.columns(metric.settings())}
    planted = f"Planted truth ([tests](../../tests/metrics/test_metrics.py)): {PLANTED[metric.family]}."
    return [planted, f"Derived a second time in {tests(metric.score)}.", parity({metric.name, *columns})]
