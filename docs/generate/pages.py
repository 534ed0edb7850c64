"""Writes the generated part of the documentation: ``python -m docs.generate docs``, or ``make docs``.

Everything that is registered gets a page, written from its own declarations and docstrings, so that no list is kept
twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import click

from docs.generate.checked import checks_page
from docs.generate.explainers import controls_page, explainer_page, explainers
from docs.generate.metrics import BETTER, metric_page, native, ours
from docs.generate.text import described, page, section, shown, summary, table, words
from xeval.cli.main import cli
from xeval.explainers import Explainer
from xeval.metrics.metric import METRICS, Family, Metric
from xeval.perturb.fills import FILLS
from xeval.quantus_bridge import bridge  # noqa: F401 - registers the metrics that run through Quantus
from xeval.quantus_bridge.table import ENTRIES
from xeval.scoring.protocols import Protocol

FOLDERS = ("metrics", "explainers")
SEPARATE = ("name", "about", "settings")
WRITTEN = {
    "quickstart": "from a clone to a report; your own checkpoint, images and model",
    "your-own-network": "from a training script in plain PyTorch to a report, and five ways of saving a network",
    "choosing-an-explainer": "from one checkpoint to an explainer that you can justify: columns, controls, cost, seeds",
    "networks": "networks of timm, torchvision, transformers and your own code, by name",
    "conventions": "notation, and every definition in one table a kind",
    "architectures": "which explainer works on which network, and why not",
    "protocols": "every named set of definitions, spelled out",
    "cli": "every command and option",
    "checkpoints": "which weight files are read, how, and what is refused",
    "data": "data sets, where they come from, your own images",
    "training": "recipes and run directories",
    "speed": "what is computed once, folding, compiling, batch sizes; where the time went",
    "cluster": "many runs, here or on a cluster; one run on several GPUs; tuning; what the papers' matrices cost",
    "statistics": "what a comparison may claim: intervals, tests, limits",
    "tables": "tables for a paper: the papers' layouts, columns, names, decimals, widths, LaTeX",
    "reliability": "what happens when something goes wrong, and the tests that prove it",
    "what-is-checked": "what xeval looks at by itself in models, data and recipes, what it then says, and the proof",
    "parity": "the same numbers from Quantus, captum, pytorch-grad-cam and torch-cam",
    "quantus": "what every metric of Quantus does as installed and through the bridge",
    "localisation": "what localisation measures on photographs: read it before using those columns",
    "extending": "add a metric, an explainer, a method, a data set, a protocol, or a plug-in",
}
"""Describes each page beside the generated folders; a page that is not named here is listed by its title."""


def pages(docs: Path) -> dict[str, str]:
    """Return every generated page as file name below ``docs`` → text; the index also lists the other pages there."""
    found = {f"metrics/{name}.md": metric_page(one) for name, one in native().items()}
    found["metrics/quantus.md"] = quantus_page()
    found |= {f"explainers/{name}.md": explainer_page(one) for name, one in explainers().items()}
    found["explainers/controls.md"] = controls_page()
    found |= {"protocols.md": protocols_page(), "cli.md": commands_page(), "what-is-checked.md": checks_page()}
    return {**found, "README.md": index_page(docs, set(found))}


def quantus_page() -> str:
    """Return the page on the metrics of Quantus; those that are refused come last, with the reason."""
    rows = [
        (f"`{one.full_name}`", BETTER[one.direction], one.family, one.about, one.repaired)
        for one in ENTRIES
        if one.full_name in METRICS
    ]
    refused = [f"- `{one.full_name}`: {one.refused}." for one in ENTRIES if one.refused]
    return page(
        "Metrics of Quantus",
        "Run by Quantus itself: `--metrics quantus:NAME`. One column `quantus:NAME.value`, one value an image. What "
        "stock Quantus does, and how long each takes: [Quantus](../quantus.md).",
        table(("metric", "better", "family", "what it is asked", "repaired"), rows),
        section("Refused", "\n".join(refused)),
        section("Citation", "Hedström et al., JMLR 2023; each metric's own source stands in Quantus's documentation."),
    )


# ---- protocols -------------------------------------------------------------------------------------------------------


def protocols_page() -> str:
    """Return the page on every protocol, with every field and every setting of its metrics."""
    fields = [
        (f"`{name}`", field.description or "") for name, field in Protocol.model_fields.items() if name not in SEPARATE
    ]
    fills = [(f"`{name}`", " ".join(described(fill.make))) for name, fill in FILLS.items()]
    return page(
        "Protocols",
        words(
            "A protocol fixes everything that changes a number. Its hash goes into every row, and unlike rows are "
            "never compared. An option that changes a field renames the protocol in every output: ``xeval+fill=blur``."
        ),
        *(_protocol(protocol) for _, protocol in ours()),
        section("What the fields mean", table(("field", "meaning"), fields)),
        section("Fills", table(("fill", "what removed pixels become"), fills)),
    )


def _protocol(protocol: Protocol) -> str:
    fields = [
        (f"`{name}`", f"`{text}`" if (text := shown(getattr(protocol, name))) != "–" else text)
        for name in Protocol.model_fields
        if name not in SEPARATE
    ]
    return section(
        f"`{protocol.name}`",
        f"{protocol.about[0].upper()}{protocol.about[1:]}. Hash `{protocol.hash()[:12]}`.",
        table(("field", "value"), fields),
        table(("metric", "version", "settings"), [_metric(protocol, name) for name in protocol.metrics]),
    )


def _metric(protocol: Protocol, name: str) -> tuple[str, str, str]:
    settings = protocol.metric_settings(name).model_dump()
    text = ", ".join(f"`{key}` = `{shown(value)}`" for key, value in settings.items())
    return f"[`{name}`](metrics/{name}.md)", str(METRICS[name].version), text


# ---- commands --------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the page on every command, with the arguments, options and example that the command declares."""
    return page(
        "Commands",
        "`xeval COMMAND --help` prints the same. `xeval --version` prints the version; `xeval --json-errors COMMAND …` "
        "writes an error as one JSON object. [Exit codes](reliability.md#exit-codes).",
        *(_command(context) for context in _contexts(click.Context(cli, info_name="xeval"))),
    )


def _contexts(group: click.Context) -> Iterator[click.Context]:
    """Yield the context of every command that is not a group; it knows the groups above it."""
    if not isinstance(group.command, click.Group):
        yield group
        return
    for name, command in group.command.commands.items():
        yield from _contexts(click.Context(command, info_name=name, parent=group))


def _command(context: click.Context) -> str:
    text, _, example = (context.command.help or "").partition("Example:")
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    records = [option.get_help_record(context) for option in context.command.params if isinstance(option, click.Option)]
    rows = [(f"`{words(record[0])}`", words(record[1])) for record in records if record]
    return section(
        f"`{context.command_path}`",
        *(words(block) for block in text.split("\n\n")),
        f"```text\n{usage}\n```",
        table(("option", "meaning"), rows) if rows else "",
        f"Example:\n\n```console\n{words(example)}\n```" if example else "",
    )


# ---- index -----------------------------------------------------------------------------------------------------------


def index_page(docs: Path, generated: set[str]) -> str:
    """Return the index of the documentation, with one line for each page."""
    names = {path.stem for path in docs.glob("*.md")} | {Path(name).stem for name in generated if "/" not in name}
    order = [name for name in WRITTEN if name in names] + sorted(names - {*WRITTEN, "README"})
    guides = [f"- [{name}]({name}.md): {WRITTEN.get(name) or _title(docs / f'{name}.md')}" for name in order]
    metrics: list[str] = []
    for family in get_args(Family):
        members = {name: one for name, one in native().items() if one.family == family}
        metrics += ["", f"*{family}*", "", *_lines("metrics", members)]
    return page(
        "Documentation",
        "\n".join(guides),
        section("Metrics", "\n".join(metrics).strip(), "And [those of Quantus](metrics/quantus.md)."),
        section("Explainers", "\n".join(_lines("explainers", explainers()))),
        section("Controls", "[All of them on one page](explainers/controls.md)."),
    )


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _lines(folder: str, things: Mapping[str, Metric | Explainer]) -> list[str]:
    return [
        f"- [{name}]({folder}/{name}.md): {summary(one.score if isinstance(one, Metric) else one.explain)}"
        for name, one in things.items()
    ]


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(docs: Path) -> list[Path]:
    """Write every generated page below ``docs`` and remove those of things that no longer exist."""
    wanted = {docs / name: text for name, text in pages(docs).items()}
    for folder in FOLDERS:
        (docs / folder).mkdir(parents=True, exist_ok=True)
        for stale in set((docs / folder).glob("*.md")) - set(wanted):
            stale.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return list(wanted)
