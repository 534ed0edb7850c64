"""What ranks exchange goes through the accelerator's own transport; two GPUs train as one does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.device.shared import trained
from tests.jobs import processes
from xeval.checkpoints.weightfiles import read_tensors
from xeval.runtime.distributed import ALONE, Processes

pytestmark = pytest.mark.device


@pytest.fixture
def group(device: torch.device) -> Iterator[Processes]:
    """A rank in a group of one, which exchanges as in a world of two: over NCCL on CUDA, over gloo elsewhere."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield Processes(0, 2, device=str(device))
    dist.destroy_process_group()


def test_a_group_of_one_gathers_adds_and_copies(group: Processes, device: torch.device) -> None:
    where = device if device.type == "cuda" else torch.device("cpu")  # gloo has no other devices
    rows = torch.arange(6.0, device=where).reshape(3, 2).requires_grad_()
    gathered = group.gather(rows, [3])
    assert torch.equal(gathered, rows)
    gathered.square().sum().backward()
    assert torch.equal(rows.grad, 2 * rows)
    group.add_gradients([rows])
    assert torch.equal(rows.grad, 2 * rows)
    kinds = [torch.arange(3, device=where), torch.rand(2, 2, device=where), torch.rand(5, device=where).double()]
    before = [tensor.clone() for tensor in kinds]
    group.copy_from_main(kinds)
    assert all(torch.equal(*pair) for pair in zip(kinds, before, strict=True))


def test_two_gpus_share_batch_norm_and_train_as_one(device: torch.device, tmp_path: Path) -> None:
    """With the statistics of the whole batch (SyncBatchNorm) and the sum of gradients (NCCL) the weights are equal."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, here are {torch.cuda.device_count()}")
    trained(ALONE, device, tmp_path / "one.safetensors")
    started = processes(2, "-m", "tests.device.shared", str(tmp_path / "two.safetensors"), "cuda")
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    one, two = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)


def test_one_epoch_has_the_weights_of_the_cpu(device: torch.device, tmp_path: Path) -> None:
    for name, where in (("ours", device), ("theirs", torch.device("cpu"))):
        trained(ALONE, where, tmp_path / f"{name}.safetensors")
    ours, theirs = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("ours", "theirs"))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)
