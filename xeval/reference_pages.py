"""A page for every registered metric and explainer: registry, docstring of what computes it, protocols and parity."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xeval.cli import part
from xeval.explainers import CONTROLS, EXPLAINERS, Explainer
from xeval.metrics.base import METRICS, Column, Family, Metric
from xeval.options import ScoreOptions
from xeval.parity import Check, checks
from xeval.protocols import PROTOCOLS, Protocol
from xeval.reference_text import (
    described,
    listed,
    page,
    paragraphs,
    refusals,
    section,
    shown,
    source,
    table,
)
from xeval.terminal import ARROWS

ROOT = Path(__file__).resolve().parent.parent
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
"""What ``tests/metrics/test_metrics.py`` demands of every metric of a family."""

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
"""Controls to read beside a family, where the report does not mark cells that fail to beat them (‡)."""


def native() -> dict[str, Metric]:
    """The metrics that are computed here: neither Quantus's nor those of installed plug-ins."""
    return {name: one for name, one in METRICS.items() if one.score.__module__.startswith("xeval.metrics.")}


def explainers() -> dict[str, Explainer]:
    """The explainers of this package."""
    return {name: one for name, one in EXPLAINERS.items() if one.explain.__module__.startswith("xeval.")}


# ---- metrics ---------------------------------------------------------------------------------------------------------


def metric_page(metric: Metric) -> str:
    """The page of one metric."""
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
        _footer(metric.score),
    )


def _asked_for(metric: Metric) -> str:
    if metric.default:
        return "Computed by default."
    names = [name for name in (metric.name, metric.group) if name]
    return "Computed on request: " + " or ".join(f"`--metrics {name}`" for name in names) + "."


def _columns(metric: Metric) -> str:
    """One row a column; the columns of several parameters share the row of the first."""
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
    fixed = "A [protocol](../protocols.md) fixes them; their values are hashed into every row."
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


def _needs(metric: Metric) -> str:
    if "masks" in metric.needs:
        return (
            "Object masks, or boxes, which are drawn as masks: left out where the data have none (`xeval data list`)."
        )
    return "Nothing but the images, the network and the map."


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
    """The protocols, by name."""
    return PROTOCOLS.items()


def _beside(metric: Metric) -> str:
    summary = part("reports.summary")
    if metric.family in summary.MUST_BEAT_CONTROLS:
        return (
            f"{_linked(summary.FLOORS)}: the report marks a cell with ‡ where an explainer does not beat both on the "
            "same checkpoints, and shows the gain over a random map."
        )
    if metric.family not in BESIDE:
        return ""
    names, why = BESIDE[metric.family]
    return f"{_linked(names)}: {why}."


def _linked(names: Iterable[str]) -> str:
    return listed([f"[`{name}`](../explainers/controls.md#{name})" for name in names if name in CONTROLS])


def _checked(metric: Metric) -> list[str]:
    """The planted truth of the family, the derivation in the tests, and the other libraries of ``xeval verify``."""
    columns = {column.name.partition("@")[0] for column in metric.columns(metric.settings())}
    planted = f"Planted truth ([tests](../../tests/metrics/test_metrics.py)): {PLANTED[metric.family]}."
    derived = f"Derived a second time in [{(name := _test(metric.score))}](../../{name})."
    return [planted, derived, _parity({metric.name, *columns})]


def _test(function: Any) -> str:
    """The test file that belongs to the file of a function."""
    path = Path(source(function, ROOT))
    return f"tests/{path.parent.name}/test_{path.name}"


def _parity(names: set[str]) -> str:
    found = [check for check in checks() if _subject(check) in names]
    if not found:
        return "No other library in [`xeval verify`](../parity.md)."
    rows = [(check.name, check.oracle, f"{check.tolerance:g}") for check in found]
    return (
        "Compared by [`xeval verify`](../parity.md), on your own checkpoint, with a tolerance on |a − b| / max(1, |b|):"
        f"\n\n{table(('here', 'there', 'tolerance'), rows)}"
    )


def _subject(check: Check) -> str:
    """The metric, column or explainer that a check is about: what its name begins with."""
    return re.split(r"[, ]", check.name)[0]


# ---- explainers ------------------------------------------------------------------------------------------------------


def explainer_page(one: Explainer) -> str:
    """The page of one explainer."""
    return page(
        f"`{one.name}`",
        *described(one.explain),
        section("Map", "\n".join(f"- {name}: {what}" for name, what in _facts(one))),
        section("Refused", *_refused(one)),
        section("Checked", f"In [{(name := _test(one.explain))}](../../{name}).", _parity({one.name})),
        section("Citation", *bibtex(one.citation)),
        _footer(one.explain),
    )


def _parameters(one: Explainer) -> list[str]:
    return list(inspect.signature(one.explain).parameters)


def looks_at_layer(one: Explainer) -> bool:
    """Whether the explainer reads the layer it is given: its code names what it ignores with an underscore."""
    return not _parameters(one)[1].startswith("_")


def _facts(one: Explainer) -> list[tuple[str, str]]:
    layer, classes = looks_at_layer(one), not _parameters(one)[3].startswith("_")
    meaning = {
        "gradient": "`gradient`: change of the score per unit of input",
        "location": "`location`: how much a place matters",
    }
    return [
        ("unit", meaning[one.units]),
        ("reads", "the activations of one layer (`--layer`)" if layer else "the image; `--layer` is ignored"),
        ("grid", "the layer's own, upsampled for scoring" if layer else "the image's, where the text names no other"),
        ("explains", "the class that is asked for" if classes else "the image: the map is the same for every class"),
    ]


def _refused(one: Explainer) -> list[str]:
    if looks_at_layer(one):
        return ["Layers that give no feature map N×K×h×w (exit code 2): name a convolutional layer with `--layer`."]
    found = [f"{text[0].upper()}{text[1:].rstrip('.')} (exit code 2)." for text in refusals(one.explain)]
    return found or ["No network: the logits, or their gradient, are all it needs."]


def controls_page() -> str:
    """All controls on one page."""
    blocks = []
    for name, about in CONTROLS.items():
        facts = [f"The scores of {about.draws} draws are averaged."] if about.draws > 1 else []
        facts += ["One set of passes serves keep and deletion curves."] if about.symmetric else []
        text = paragraphs(about.draw) if about.draw else [about.about]
        blocks.append(section(f"`{name}`", *text, " ".join(facts)))
    intro = (
        "Grey rows of every table, never ranked: what a map that knows nothing, or the wrong thing, gets on the same "
        "checkpoint with the same perturbations. A score means something where the explainer beats them."
    )
    return page("Controls", intro, *blocks, "Draws depend on the image and the number of the draw alone.")


# ---- what both share -------------------------------------------------------------------------------------------------


def bibtex(citation: str) -> list[str]:
    """The short citation and the entries that stand for it in a report's references.bib."""
    methods = part("reports.methods")
    entries = dict(methods.references().values())
    found = "\n".join(entries[key].strip() for key in methods.keys_of(citation))
    return [f"{citation}.", f"```bibtex\n{found}\n```" if found else ""]


def _footer(function: Any) -> str:
    path = source(function, ROOT)
    return f"*Written by `make docs` from [{path}](../../{path}). Change the words there.*"
