"""Which folders a comparison finds: through links, once each, below several folders; what is left out has a name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import xeval
from tests.commands import here
from tests.reports.synthetic import scores, write_run
from xeval.errors import DataError, UsageError
from xeval.reports.collect import collect


def left_out(*roots: Path) -> dict[str, str]:
    return {one.path: one.reason for one in collect(*roots).excluded}


@pytest.mark.fault("P13")
def test_links_are_followed_and_loops_end(runs: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "elsewhere", scores("ce", 0, 0.3))
    write_run(runs, scores("supcon", 0, 0.2))
    (runs / "deep" / "er").mkdir(parents=True)
    (runs / "deep" / "er" / "linked").symlink_to(run)
    (runs / "deep" / "loop").symlink_to(runs)
    (runs / "deep" / "er" / "itself").symlink_to(".")
    (runs / "twice").symlink_to(run, target_is_directory=True)
    (runs / "gone").symlink_to(tmp_path / "nowhere")
    (runs / "round").symlink_to("round")
    found = collect(runs)
    assert {run.path for run in found.runs} == {"deep/er/linked", "digits-supcon-s0"}
    assert left_out(runs) == {
        "deep/loop": "is the same folder as runs",
        "deep/er/itself": "is the same folder as deep/er",
        "twice": "is the same folder as deep/er/linked",
        "gone": "is a link that leads nowhere",
        "round": "is a link that leads nowhere",
    }


@pytest.mark.fault("P13")
def test_a_folder_that_cannot_be_read_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        write_run(runs, scores("ce", seed, 0.3), folder=f"{name}/run")
    scandir = os.scandir

    def guarded(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert {run.path for run in collect(runs).runs} == {"a/run", "c/run"}
    assert left_out(runs) == {"b": "cannot be read (Permission denied)"}


@pytest.mark.fault("P13")
@pytest.mark.usefixtures("no_figures")
def test_several_folders_are_compared_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, method in enumerate(("ce", "supcon")):
        write_run(Path("ab"[number]), scores(method, 0, 0.3))
        (Path("ab"[number]) / "left" / "state").mkdir(parents=True)
    status, shown, _ = here(capsys, "compare", "a", "b")
    assert status == 0
    assert "left out: b/left training has not finished (start the same `xeval train` command again" in shown
    assert (Path("a") / "report" / "comparison.toml").is_file()
    assert not Path("a", "comparison.toml").exists()
    made = xeval.compare(["a", Path("b"), "b/digits-supcon-s0"], "out")
    (section,) = made.sections
    assert {run.path for run in section.group.runs} == {"a/digits-ce-s0", "b/digits-supcon-s0"}
    assert {one.path: one.reason for one in made.excluded} == {
        "a/left": "training has not finished",
        "b/left": "training has not finished",
        "b/digits-supcon-s0": "is the same folder as b/digits-supcon-s0",
    }
    assert made.results["excluded"][0]["path"] == "b/digits-supcon-s0"
    with pytest.raises(DataError, match="nowhere is not a folder"):
        collect(Path("a"), Path("nowhere"))
    with pytest.raises(UsageError, match="no folder was given"):
        xeval.compare([])
