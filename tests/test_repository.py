"""What surrounds the code: the hosted workflow, the hook, the image, the templates and the page on security."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.commands import ROOT

HIDDEN = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((HIDDEN / "workflows" / "test.yml").read_text(encoding="utf-8"))
PAGES = sorted(HIDDEN.rglob("*.md"))


def steps() -> list[str]:
    return [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_the_versions_that_the_package_names() -> None:
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    named = [text.removeprefix("Programming Language :: Python :: ") for text in PROJECT["classifiers"]]
    assert matrix["python"] == [text for text in named if re.fullmatch(r"3\.\d+", text)]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}


def test_the_workflow_calls_what_there_is() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {target for text in steps() for target in re.findall(r"make ([\w-]+)", text)}
    assert {"test", "lint"} <= called <= targets
    for path in re.findall(r"[\w.]+/[\w.]+\.py", "\n".join(steps())):
        assert (ROOT / path).is_file(), path
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_hook_is_make_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == ["make lint"]


def test_the_lowest_versions_are_pins_of_every_dependency() -> None:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pins = dict(pin.split("==") for pin in module.lowest(PROJECT["dependencies"]))
    assert len(pins) == len(PROJECT["dependencies"])
    measured = {"torch": "2.6", "numpy": "1.26", "pandas": "2.1", "scipy": "1.11", "captum": "0.7"}
    assert pins.items() >= {**measured, "quantus": "0.6"}.items()
    with pytest.raises(SystemExit, match="torch has no lower bound"):
        list(module.lowest(["torch"]))


def test_the_image_copies_what_there_is_and_is_told_of_it() -> None:
    image = (ROOT / ".ci" / "Dockerfile").read_text(encoding="utf-8")
    sources = [name for line in re.findall(r"^COPY (.+) \S+$", image, re.MULTILINE) for name in line.split()]
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sources) == sorted(kept)
    assert all((ROOT / name).exists() for name in sources)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Any) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_page_on_security_says_what_the_code_does() -> None:
    from xeval.checkpoints import weightfiles

    page = re.sub(r"\s+", " ", (HIDDEN / "SECURITY.md").read_text(encoding="utf-8"))
    promise = "a checkpoint, an archive or a picture from somebody else cannot run code"
    assert promise in page
    assert promise in re.sub(r"\s+", " ", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")).lower()
    assert f"torch before {'.'.join(map(str, weightfiles.SAFE_TORCH))}" in page
    assert f"up to {weightfiles.MAX_BYTES >> 30} GiB" in page


def test_no_address_is_named_that_the_project_does_not_have() -> None:
    assert "urls" not in PROJECT
