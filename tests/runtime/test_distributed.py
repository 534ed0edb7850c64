"""Which device a rank takes, which commands it may run, and which errors it can share."""

from __future__ import annotations

import pytest
import torch

from xeval import errors
from xeval.runtime import distributed as processes


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("asked", "given"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_rank_takes_the_gpu_of_its_local_number(asked: str, given: str) -> None:
    assert processes.own_device(asked) == given


@pytest.mark.usefixtures("two_gpus")
def test_more_ranks_than_gpus_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(errors.UsageError, match=r"3 ranks .*2 GPUs — .*--nproc-per-node=2"):
        processes.own_device("auto")


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.own_device("auto") == "cpu"
    assert processes.own_device("cuda") == "cuda"  # the command says that there is none


def test_other_commands_run_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.require_one("sweep")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("score", "train"):
        processes.require_one(command)
    with pytest.raises(errors.UsageError, match="sweep runs in one process"):
        processes.require_one("sweep")


def test_every_kind_of_error_comes_back_as_its_own_kind() -> None:
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.XevalError)
    } - {errors.XevalError}
    assert {status: kind.exit_code for status, kind in processes.KINDS.items()} == {s: s for s in processes.KINDS}
    assert set(processes.KINDS.values()) == kinds
