"""Two and three ranks against one: losses, gradients, weights, whole runs, and runs that change hands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.jobs import processes
from tests.training import ranked
from tests.training.interrupting import rows
from xeval.checkpoints.card import read_card
from xeval.checkpoints.weightfiles import read_tensors
from xeval.runtime.distributed import ALONE
from xeval.training.batches import shared_out
from xeval.training.loop import train
from xeval.training.methods import METHODS

CLOSE = 1e-6


@dataclass(frozen=True)
class Job:
    """What each rank of a job has found, and the folder of its runs."""

    found: list[dict[str, Tensor]]
    out: Path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Job:
    out = tmp_path_factory.mktemp("one")
    ranked.everything(ALONE, out)
    return Job([read_tensors(out / "rank0.safetensors")], out)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    out, number = tmp_path_factory.mktemp("several"), request.param
    started = processes(number, "-m", "tests.training.ranked", str(out))
    errors = [process.communicate(timeout=1200)[1] for process in started]
    assert [process.returncode for process in started] == [0] * number, errors
    return Job([read_tensors(out / f"rank{rank}.safetensors") for rank in range(number)], out)


@pytest.mark.parametrize("case", ranked.cases(), ids=lambda case: "-".join(map(str, case)))
def test_losses_and_gradients_of_given_rows_are_those_of_the_whole_batch(
    case: tuple[str, int, str], job: Job, single: Job
) -> None:
    name = "/".join(map(str, ("loss", *case)))
    whole, seen = single.found[0], []
    for found in job.found:
        for number in ("loss", "collapsed"):
            torch.testing.assert_close(found[f"{name}/{number}"], whole[f"{name}/{number}"], atol=CLOSE, rtol=0)
        share, own = int(found[f"{name}/share"]), found[f"{name}/rows"]
        for view in range(3):
            gradient, expected = found[f"{name}/gradient{view}"], whole[f"{name}/gradient{view}"]
            torch.testing.assert_close(gradient[:share], expected[own[:share]], atol=CLOSE, rtol=0)
            assert share or not gradient.any()
        seen += own[:share].tolist()
    assert seen == list(range(case[1]))
    assert whole[f"{name}/gradient0"].any() or (case[0] in ("excon", "exconb") and case[2] == "all")


def test_the_cases_have_uneven_and_empty_backgrounds() -> None:
    """Of two ranks one has none; of three and five images, one has no image at all."""
    masks = ranked.accepted_masks(13)
    assert [int((~part).sum()) for part in masks["first"].split(shared_out(13, 2))] == [2, 0]
    assert [int((~part).sum()) for part in masks["last"].split(shared_out(13, 2))] == [0, 2]
    assert shared_out(5, 3) == (3, 2, 0)


@pytest.mark.parametrize("method", list(METHODS))
def test_training_without_batch_norm_gives_the_weights_of_one_process(method: str, job: Job, single: Job) -> None:
    """Batches of 16, 16 and 3 images, SGD, two epochs of the encoder and of the head."""
    names = [name for name in single.found[0] if name.startswith(f"group/{method}/")]
    for found in job.found:
        for name in names:
            torch.testing.assert_close(found[name], single.found[0][name], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("method", list(METHODS))
def test_training_with_batch_norm_keeps_the_ranks_identical(method: str, job: Job) -> None:
    first, *others = job.found
    names = [name for name in first if name.startswith(f"batch/{method}/")]
    assert any(name.endswith("running_mean") for name in names)
    for name in names:
        assert torch.isfinite(first[name]).all(), name
        assert all(torch.equal(first[name], other[name]) for other in others), name


@pytest.mark.parametrize("method", list(ranked.RUNS))
def test_whole_runs_without_batch_norm_are_those_of_one_process(method: str, job: Job, single: Job) -> None:
    """History, both checkpoints and the manifest, with probes on stored features and a selection by loss among them."""
    ours, theirs = (each.out / "runs" / f"digits-{method}-s0" for each in (job, single))
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    assert_close_runs(ours, theirs)
    assert read_card(ours).provenance["ranks"] == len(job.found)
    assert read_card(ours).selection.best_epoch == read_card(theirs).selection.best_epoch


def test_a_run_goes_on_with_another_number_of_ranks(job: Job, tmp_path: Path) -> None:
    settings = ranked.recipe("exconb", *ranked.RESUMED)
    with patch("xeval.training.trainer.make_learner", ranked.without_batch_norm):
        whole = train(settings, seed=0, out=tmp_path, limit=60)
        resumed = train(settings, seed=0, out=job.out / "halves", limit=60)
    assert_close_runs(resumed, whole)


def assert_close_runs(ours: Path, theirs: Path) -> None:
    for name in ("best", "last"):
        found, expected = (read_tensors(folder / f"{name}.safetensors") for folder in (ours, theirs))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(rows(ours)) == len(rows(theirs))
    for row, other in zip(rows(ours), rows(theirs), strict=True):
        for column in row.keys() - {"seconds"}:
            assert row[column] == other[column] or float(row[column]) == pytest.approx(float(other[column]), abs=1e-5)


@pytest.mark.parametrize(("count", "world", "expected"), [(16, 2, (8, 8)), (7, 3, (3, 2, 2)), (3, 4, (3, 0, 0, 0))])
def test_shares_are_alike_and_never_a_single_image(count: int, world: int, expected: tuple[int, ...]) -> None:
    assert shared_out(count, world) == expected
