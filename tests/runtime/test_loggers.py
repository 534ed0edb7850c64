"""What loggers are given is read back from what they wrote; one that fails costs nothing but itself."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from xeval.errors import UsageError
from xeval.runtime import loggers
from xeval.runtime.loggers import LOGGERS, PACKAGES, Loggers, logged, numbers, require_loggers
from xeval.runtime.progress import Silent

STEPS = {1: {"loss": 0.1 + 0.2, "val_accuracy": 0.5}, 2: {"loss": 1e-9}}
GIVEN = {(step, name): value for step, row in STEPS.items() for name, value in row.items()}


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def log(name: str, run: Path, steps: Mapping[int, Mapping[str, float]] = STEPS) -> None:
    heard = Heard()
    with logged([name], run, "train", heard) as opened:
        for step, row in steps.items():
            opened.put(row, step)
    assert heard.lines == []


def read_csv(run: Path) -> dict[tuple[int, str], float]:
    with (run / "log" / "train.csv").open(newline="") as file:
        return {(int(row["step"]), row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def test_csv_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    log("csv", tmp_path / "run")
    assert read_csv(tmp_path / "run") == GIVEN
    log("csv", tmp_path / "run", {1: {"loss": 7.0}})  # what a run that goes on writes replaces what was there
    assert read_csv(tmp_path / "run") == {(1, "loss"): 7.0}


def test_numbers_are_on_disk_before_the_logger_is_closed(tmp_path: Path) -> None:
    opened = Loggers(["csv"], tmp_path, "train", Heard())
    opened.put(STEPS[1], 1)
    assert read_csv(tmp_path) == {key: value for key, value in GIVEN.items() if key[0] == 1}
    opened.close()


def test_tensorboard_is_read_back_by_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log("tensorboard", tmp_path)
    log("tensorboard", tmp_path, {1: STEPS[1], 2: {"loss": 0.25}})  # the second call supersedes the first
    found = EventAccumulator(str(tmp_path / "log" / "tensorboard" / "train")).Reload()
    read = {name: {point.step: point.value for point in found.Scalars(name)} for name in found.Tags()["scalars"]}
    assert read == {"loss": {1: pytest.approx(0.3), 2: 0.25}, "val_accuracy": {1: 0.5}}
    assert [point.step for point in found.Scalars("loss")] == [1, 2]


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file of wandb: LevelDB's log format, blocks of 32 KiB, behind a header of 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # the rest of a block that has no room for a header
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_offline_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    log("wandb", tmp_path / "digits-ce-s0")
    wandb.teardown()  # its process writes the file, and has written it once it has ended
    (file,) = (tmp_path / "digits-ce-s0" / "log" / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[tuple[int, str], float] = {}
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            assert (record.run.display_name, record.run.job_type) == ("digits-ce-s0", "train")
        for item in record.history.item:
            name = item.key or item.nested_key[0]
            if not name.startswith("_"):
                found[record.history.step.num, name] = json.loads(item.value_json)
    assert found == GIVEN


@pytest.mark.parametrize("fails", ["open", "put", "close"])
def test_a_logger_that_fails_is_told_once_and_left_out(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, _run: Path, _job: str) -> None:
            self.act("open")

        def put(self, _numbers: Mapping[str, float], _step: int) -> None:
            self.act("put")

        def close(self) -> None:
            self.act("close")

        def act(self, what: str) -> None:
            if what == fails:
                raise RuntimeError("the server is away\nand more")

    monkeypatch.setitem(LOGGERS, "wandb", Broken)
    heard = Heard()
    with logged(["wandb", "csv"], tmp_path, "train", heard) as opened:
        for step, row in STEPS.items():
            opened.put(row, step)
    assert heard.lines == ["warning: --log wandb fails (the server is away); the job goes on without it"]
    assert read_csv(tmp_path) == GIVEN


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    heard = Heard()
    with logged(["csv"], tmp_path, "train", heard) as opened:
        opened.put({"loss": 1.0}, 1)
        opened.put({"loss": 1.0}, 2)
    assert len(heard.lines) == 1
    assert "--log csv fails" in heard.lines[0]


def test_nothing_is_opened_before_there_are_numbers(tmp_path: Path) -> None:
    with logged(["csv"], tmp_path, "train", Heard()):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_told_in_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "package_version", lambda _: None)
    require_loggers(["csv"])
    with pytest.raises(
        UsageError, match=rf"--log {name} needs {name}, .* — pip install \"xeval-explanations\[{name}\]\""
    ):
        require_loggers([name])


def test_no_package_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, xeval.cli.main; print([name for name in ('tensorboard', 'wandb', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_only_numbers_are_logged() -> None:
    assert numbers({"loss": 0.5, "epoch": 3, "masked_share": None, "word": "a"}) == {"loss": 0.5, "epoch": 3.0}
