"""A kill or a failed call wherever a command changes a file: the same command again ends as if nothing had been."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.counts import UNCOUNTED, rewritten, rows
from tests.faults.forks import Forks
from tests.faults.injected import commands
from tests.faults.injector import FAULTS, Point, Trial, a_tenth, every, points_of, wrong
from tests.faults.matrix import PAGE

NAMES = list(commands())
# Those that are not yet known to survive every point, as the page says, run with the long proofs: a failed fdatasync of
# a store leaves scores.sqlite.corrupt behind.
COUNTED = ("train", "train --export", "import", "probe", "compare")
traced = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as running:
        yield running


@traced
@pytest.mark.fault("S27")
@pytest.mark.parametrize(
    "name", [name if name in COUNTED else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_tenth_of_the_points(forks: Forks, tmp_path: Path, name: str) -> None:
    trial = Trial(commands()[name], forks, tmp_path / "place")
    assert len(trial.points) >= 10
    assert list(wrong(trial, a_tenth(trial.points, seed=NAMES.index(name)))) == []


@traced
@pytest.mark.slow
@pytest.mark.fault("S27")
@pytest.mark.parametrize("name", NAMES)
def test_every_point(forks: Forks, tmp_path: Path, name: str) -> None:
    trial = Trial(commands()[name], forks, tmp_path / "place")
    assert list(wrong(trial, every(trial.points))) == []


@traced
def test_what_is_lost_or_left_over_is_found(forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The injector itself: a command that leaves something, and one that ends otherwise, are told."""
    trial = Trial(commands()["train --export"], forks, tmp_path / "place")
    place = next(point for point in trial.points if point.call == "rename")
    assert trial.survives(place, "kill") == ""
    whole = trial.whole
    for other, told in (
        ({**whole, "more": b""}, "missing: more"),
        ({name: whole[name] for name in whole if name != "ckpt.pt"}, "left over: ckpt.pt"),
        ({**whole, "ckpt.pt": {}}, "different: ckpt.pt"),
    ):
        trial.whole = other
        assert trial.survives(place, "kill") == told
    trial.whole = whole
    assert trial.survives(Point("rename", 99, ""), "kill").startswith("the fault ends in 0")  # there is no such call
    (trial.template / "ckpt.pt").mkdir()
    assert "the same command again ends in 2" in trial.survives(trial.points[0], "kill")


def test_the_points_are_the_calls_that_change_something_below_the_folder() -> None:
    log = """
openat(AT_FDCWD</w>, "runs/a", O_RDONLY) = 3</w/runs/a>
openat(AT_FDCWD</w>, "runs/b", O_WRONLY|O_CREAT|O_EXCL, 0666) = 3</w/runs/b>
write(2</memfd:stderr>, ""..., 5) = 5
write(3</w/runs/b>, ""..., 5) = 5
unlinkat(5</elsewhere>, "c", 0) = 0
unlinkat(6</w/runs>, "c", 0) = 0
rename("/w/runs/b", "runs/d") = 0
rename("/tmp/x", "/tmp/y") = 0
fsync(4</w>) = 0
+++ exited with 0 +++
"""
    assert list(points_of(log, Path("/w"))) == [
        Point("openat", 2, "runs/b"),
        Point("write", 2, "runs/b"),
        Point("unlinkat", 2, "runs/c"),
        Point("rename", 1, "runs/d"),
    ]
    assert Point("fsync", 3, "").option("fail") == "inject=fsync:error=ENOSPC:when=3"
    assert Point("rename", 3, "").option("fail") == "inject=rename:error=EIO:when=3"
    assert Point("rename", 3, "").option("kill") == "inject=rename:signal=KILL:when=3"


def test_a_tenth_is_seeded_and_has_both_faults() -> None:
    points = [Point("write", number, "") for number in range(1, 201)]
    chosen = a_tenth(points, seed=1)
    assert len(chosen) == 20
    assert chosen == a_tenth(points, seed=1) != a_tenth(points, seed=2)
    assert {fault for _, fault in chosen} == set(FAULTS)


def test_the_page_has_a_row_for_every_command_and_counts_no_fault_that_was_not_survived() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = rows(page)
    assert list(found) == NAMES
    counted = {name: row for name, row in found.items() if row != UNCOUNTED}
    assert all(tried == survived and equal == "yes" for tried, survived, equal in counted.values()), counted
    assert rows(rewritten(page, "score", 1234, 1))["score"] == ("1,234", "1,233", "no")
