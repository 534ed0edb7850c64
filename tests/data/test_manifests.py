"""A manifest that is kept is the one that reading all images gives, and is read again for whatever could change it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.commands import here
from tests.data.makers import noise, png, write_tree
from tests.runs import make_run
from xeval.data import manifests, open_dataset
from xeval.data.base import Split
from xeval.data.images import FileSplit
from xeval.errors import DataError
from xeval.runtime import cache
from xeval.runtime.progress import Silent, told_if_slow

IMAGES = noise(8, 8, seed=1)
FILES = {f"{'ab'[number % 2]}/{number}.png": png(image) for number, image in enumerate(IMAGES)}
LONG_AGO = time.time_ns() - 10**12


def settled(folder: Path, moment: int = LONG_AGO) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, ns=(moment, moment))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image folder whose files are old enough, and a cache of its own."""
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    data = tmp_path / "data"
    write_tree(data, FILES)
    return settled(data)


def split(folder: Path, size: int | None = None) -> Split:
    return open_dataset(f"folder:{folder}", None, size).split("test")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Split], int]:
    """How many images are decoded for the manifest of a split."""
    original, seen = FileSplit._image, []

    def image(self: FileSplit, position: int) -> np.ndarray:
        seen.append(position)
        return original(self, position)

    monkeypatch.setattr(FileSplit, "_image", image)
    monkeypatch.setattr(manifests, "CHECKED", 2)

    def count(found: Split, **options: bool) -> int:
        seen.clear()
        found.manifest(**options)
        return len(seen)

    return count


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.fault("D22")
def test_images_are_hashed_once_and_checked_by_sample(folder: Path, decoded: Callable[..., int]) -> None:
    before, every = snapshot(folder), len(split(folder))
    assert decoded(split(folder)) == every
    whole = split(folder).manifest(rehash=True)
    for _ in range(3):
        again = split(folder)
        assert decoded(again) == 2
        assert again.manifest() == whole
    assert decoded(split(folder), rehash=True) == every
    assert snapshot(folder) == before  # nothing is written beside the data
    assert decoded(split(folder, 16)) == every  # another size has other pixels
    assert decoded(split(folder, 16)) == 2


@pytest.mark.fault("D22")
def test_whatever_changes_is_hashed_again(folder: Path, decoded: Callable[..., int], tmp_path: Path) -> None:
    first, every = split(folder).manifest(), len(split(folder))
    victim = folder / "a" / "0.png"
    data = victim.read_bytes()
    victim.write_bytes(png(255 - IMAGES[0]))
    os.utime(victim, ns=(LONG_AGO + 1, LONG_AGO + 1))
    changed = split(folder)
    assert (decoded(changed), changed.manifest() != first) == (every, True)
    victim.write_bytes(data)
    os.utime(victim, ns=(LONG_AGO, LONG_AGO))
    back = split(folder)
    assert (decoded(back), back.manifest()) == (every, first)
    (victim.parent / "more.png").write_bytes(png(IMAGES[1]))
    settled(folder)
    assert decoded(split(folder)) == every + 1
    victim.unlink()
    victim.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=victim.name):
        split(folder).manifest()


@pytest.mark.fault("D22")
def test_other_pixels_under_the_same_size_and_time_are_found_by_sample(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = split(folder).manifest()
    for path in folder.rglob("*.png"):
        data = bytearray(path.read_bytes())
        path.write_bytes(png(IMAGES[0]).ljust(len(data), b"\0")[: len(data)])
    settled(folder)
    monkeypatch.setattr(manifests, "CHECKED", 4)
    assert split(folder).manifest() != first


@pytest.mark.fault("D22")
def test_files_that_have_just_been_written_are_not_trusted(folder: Path, decoded: Callable[..., int]) -> None:
    settled(folder, time.time_ns())
    for _ in range(2):
        assert decoded(split(folder)) == len(split(folder))
    assert not (cache.user_cache() / "manifests").exists()


@pytest.mark.fault("D22")
def test_a_damaged_or_unwritable_cache_costs_time_only(
    folder: Path, decoded: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, every = split(folder).manifest(), len(split(folder))
    (kept,) = (cache.user_cache() / "manifests").iterdir()
    content = json.loads(kept.read_text())
    for damage in ("{", "[]", json.dumps({**content, "images": "a,b"}), json.dumps({**content, "schema": "other"})):
        kept.write_text(damage)
        again = split(folder)
        assert (decoded(again), again.manifest()) == (every, first)
    for change in ({"manifest": 7}, {"images": 7}, {"files": None}):
        kept.write_text(json.dumps({**content, **change}))
        again = split(folder)
        assert (decoded(again), again.manifest()) == (every, first)
    monkeypatch.setattr(cache, "user_cache", lambda: Path("/proc/nowhere"))
    again = split(folder)
    assert (decoded(again), again.manifest()) == (every, first)


@pytest.mark.fault("D22")
def test_commands_use_it_and_rehash_does_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = make_run(tmp_path / "run", info=open_dataset(f"folder:{folder}").info)
    hashed: list[int] = []
    original = Split._hashed

    def counted(self: Split, *given: object) -> str:
        hashed.append(len(self))
        return original(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Split, "_hashed", counted)
    score = ("score", str(run), "--metrics", "complexity", "--explainers", "grad-cam,random", "--device", "cpu")
    for more, times in (((), 1), ((), 1), (("--rehash",), 2)):
        assert here(capsys, *score, *more)[0] == 0
        assert len(hashed) == times


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_what_takes_long_is_said() -> None:
    heard = Heard()
    with told_if_slow(heard, "slow", 0.01):
        time.sleep(0.2)
    with told_if_slow(heard, "fast", 60):
        pass
    assert heard.lines == ["slow"]
