"""The documentation: generated pages are current and complete, links lead somewhere, the quick start runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from docs.generate.explainers import explainers
from docs.generate.metrics import BESIDE, PLANTED, native
from docs.generate.pages import pages, write
from docs.generate.shared import subject
from docs.generate.text import described, paragraphs, refusals, shown, table
from tests.commands import ROOT, here
from xeval.cli.main import cli
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import METRICS
from xeval.scoring.protocols import PROTOCOLS
from xeval.verify.run import checks

DOCS = ROOT / "docs"
COMMAND = "the documentation is not what the registry says now: run `make docs` and commit what it changes"
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
QUICK = (DOCS / "quickstart.md").read_text()


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return pages(DOCS)


# ---- generated pages -------------------------------------------------------------------------------------------------


def test_committed_pages_are_what_the_generator_writes_now(generated):
    for name, text in generated.items():
        assert (DOCS / name).is_file(), f"docs/{name} is missing: {COMMAND}"
        assert (DOCS / name).read_text() == text, f"docs/{name}: {COMMAND}"
    for folder in ("metrics", "explainers"):
        present = {f"{folder}/{path.name}" for path in (DOCS / folder).iterdir()}
        assert present == {name for name in generated if name.startswith(f"{folder}/")}, COMMAND


def test_every_registered_name_has_its_page(generated):
    for name in METRICS:
        where = "metrics/quantus.md" if name.startswith("quantus:") else f"metrics/{name}.md"
        assert f"`{name}`" in generated[where], name
    for name in EXPLAINERS:
        assert generated[f"explainers/{name}.md"].startswith(f"# `{name}`")
    for name in CONTROLS:
        assert f"## `{name}`" in generated["explainers/controls.md"], name
    for name in PROTOCOLS:
        assert f"## `{name}`" in generated["protocols.md"], name


@pytest.mark.parametrize("name", sorted(native()))
def test_a_metric_page_says_everything(name, generated):
    """Formula, every column and setting with its meaning, the convention, and an entry to cite."""
    page, metric = generated[f"metrics/{name}.md"], native()[name]
    assert "```text\n" in page
    for column in metric.columns(metric.settings()):
        assert f"`{column.name.partition('@')[0]}" in page
    for setting, about in metric.settings.model_json_schema().get("properties", {}).items():
        assert about.get("description"), f"{name}: the setting {setting} has no description"
        assert f"| `{setting}` |" in page
    assert metric.convention(metric.settings()) in page
    assert "```bibtex\n@" in page
    assert "float64 (N" not in page, "shapes of tensors are for the code"


@pytest.mark.parametrize("name", sorted(explainers()))
def test_an_explainer_page_says_everything(name, generated):
    page = generated[f"explainers/{name}.md"]
    for needed in ("```text\n", f"`{explainers()[name].units}`", "## Refused", "```bibtex\n@"):
        assert needed in page, needed


def test_protocols_are_spelled_out(generated):
    for name, protocol in PROTOCOLS.items():
        assert protocol.about, name
        part = generated["protocols.md"].partition(f"## `{name}`")[2].partition("\n## ")[0]
        assert protocol.hash()[:12] in part
        for metric in protocol.metrics:
            settings = protocol.metric_settings(metric).model_dump()
            for key, value in settings.items():
                assert f"`{key}` = `{shown(value)}`" in part, (name, metric, key)
    for field, about in type(PROTOCOLS["xeval"]).model_fields.items():
        assert about.description, field


def test_every_row_of_verify_stands_on_a_page(generated):
    names = {name for metric in native().values() for name in (metric.name, *_columns(metric))} | set(explainers())
    for check in checks():
        assert subject(check) in names, check.name
        assert any(f"| {check.name} | {check.oracle} |" in text for text in generated.values()), check.name


def _columns(metric):
    return [column.name.partition("@")[0] for column in metric.columns(metric.settings())]


def test_every_family_says_what_is_planted_and_controls_exist():
    assert set(PLANTED) == {metric.family for metric in native().values()}
    assert {name for names, _ in BESIDE.values() for name in names} <= set(CONTROLS)


def _commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(path, command)]
    return [found for name, one in command.commands.items() for found in _commands(one, f"{path} {name}")]


@pytest.mark.parametrize(("path", "command"), _commands(cli, "xeval"))
def test_every_command_and_option_is_documented(path, command, generated):
    """Every spelling of every option inside the command's own section, and an example that begins with the command."""
    part = generated["cli.md"].partition(f"## `{path}`\n")[2].partition("\n## ")[0]
    assert f"```console\n{path}" in part
    for option in command.params:
        if isinstance(option, click.Option):
            for spelling in option.opts:
                assert re.search(rf"`{spelling}[ `,]", part), (path, spelling)


def test_stale_pages_go_and_two_runs_are_equal(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "forgotten.md").write_text("# `forgotten`\n")
    first = {path: path.read_text() for path in write(tmp_path)}
    assert not (tmp_path / "metrics" / "forgotten.md").exists()
    assert {path: path.read_text() for path in write(tmp_path)} == first


# ---- words -----------------------------------------------------------------------------------------------------------


def test_a_docstring_becomes_markdown():
    def documented() -> None:
        """What it is, in ``code``
        and over two lines.

            A = Σ x

            B = Σ y

        See :func:`xeval.metrics.drop.drop_increase` and :class:`~xeval.metrics.metric.Column`.

        Raises :class:`~xeval.errors.UsageError` for networks that are odd.
        """

    assert paragraphs(documented)[:2] == [
        "What it is, in `code` and over two lines.",
        "```text\nA = Σ x\n\nB = Σ y\n```",
    ]
    assert described(documented)[-1] == "See `drop_increase` and `Column`."
    assert refusals(documented) == ["networks that are odd."]


def test_bars_do_not_break_a_table():
    assert table(("a", "b"), [("|x|", "")]) == "| a | b |\n| --- | --- |\n| \\|x\\| | – |"


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_tables_have_equally_many_cells(path):
    """In each table of each page; a bar that is not escaped makes a row longer."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block[:200]


# ---- links -----------------------------------------------------------------------------------------------------------


def _anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, spaces to hyphens, everything but letters, digits, - and _ dropped."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link} does not exist"
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in _anchors(target), f"{link}: no such heading"


def test_every_page_is_in_the_index(generated):
    linked = set(re.findall(r"\]\(([\w/+-]+\.md)\)", generated["README.md"]))
    assert linked == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}


# ---- the quick start -------------------------------------------------------------------------------------------------

TINY = {
    "train": ["--set", "epochs=1", "--set", "arch=cnn-tiny"],
    "score": ["--metrics", "drop", "--explainers", "grad-cam", "--limit", "4"],
    "data": [],
}


def test_the_quick_start_runs(tmp_path, monkeypatch, capsys):
    """Its lines are the README's, which another test runs, or run here on a few small images, in order."""
    readme = (ROOT / "README.md").read_text()
    known = {
        line.strip() for block in re.findall(r"```console\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()
    }
    lines = [
        line for block in re.findall(r"```console\n(.*?)```", QUICK, re.DOTALL) for line in block.splitlines() if line
    ]
    own = [line for line in lines if line not in known and not line.startswith(". .venv/")]
    monkeypatch.chdir(tmp_path)
    _small_images(tmp_path / "my-images")
    (tmp_path / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", QUICK, re.DOTALL)[0])
    assert len(own) >= 3
    for line in own:
        command = [found for word in shlex.split(line) for found in sorted(map(str, Path().glob(word))) or [word]]
        assert command[0] == "xeval", f"{line}: neither in the README nor run here"
        code, out, error = here(capsys, *command[1:], *TINY[command[1]])
        assert code == 0, (line, error)
        assert out, line
    names: dict[str, object] = {}  # one block goes on where the one before it ended
    for block in re.findall(r"```python\n(.*?)```", QUICK, re.DOTALL):
        exec(compile(block, "quickstart.md", "exec"), names)
    assert "drop.mag@0.45" in capsys.readouterr().out


def _small_images(folder: Path) -> None:
    """Two classes, dark and bright; eight pictures each to train on and two to test."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for level, name in enumerate(("dark", "bright")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(100 * level, 100 * level + 100, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
