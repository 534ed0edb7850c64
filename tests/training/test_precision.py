"""Precision of training: which passes it reaches, what stays float32, and that it is part of what a run is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.interrupting import Interrupt, Stop, assert_same_run, rows, run
from xeval.checkpoints.card import read_card
from xeval.checkpoints.load import load_model
from xeval.data import holdout, normalize, open_dataset, stratified
from xeval.errors import UsageError
from xeval.runtime.progress import Silent
from xeval.training import methods
from xeval.training.batches import Batch, Pool
from xeval.training.epochs import encoder_epoch
from xeval.training.learner import Learner
from xeval.training.methods import METHODS, explained_views
from xeval.training.precision import exact
from xeval.training.recipe import Recipe
from xeval.training.schedule import make_optimizer

HALF = "precision=bfloat16"
Make = Callable[..., Learner]
Settings = Callable[..., Recipe]


def first(learner: Learner, kind: type[torch.nn.Module]) -> torch.nn.Module:
    return next(module for module in learner.model.modules() if isinstance(module, kind))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_passes_that_train_are_in_bfloat16(method: str, learner: Make, batch: Batch) -> None:
    model, seen = learner(HALF).train(), []
    layer = first(model, torch.nn.Conv2d)
    layer.register_forward_hook(lambda module, _inputs, output: seen.append((module.training, output.dtype)))
    step = METHODS[method].step(model, batch, 1)
    step.loss.backward()
    explained = method in ("excon", "exconb")
    assert set(seen) == {(True, torch.bfloat16), *([(False, torch.float32)] if explained else [])}
    assert step.loss.dtype == torch.float32
    assert all(tensor.dtype != torch.bfloat16 for tensor in model.state_dict().values())
    assert all(one.grad is None or one.grad.dtype == torch.float32 for one in model.parameters())


def test_losses_are_given_float32(learner: Make, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.dtype] = []
    for name in ("supcon", "triplet"):
        true = getattr(methods, name)
        monkeypatch.setattr(
            methods, name, lambda x, *rest, true=true, **more: given.append(x.dtype) or true(x, *rest, **more)
        )
    for method in ("supcon", "triplet"):
        METHODS[method].step(learner(HALF).train(), batch, 1)
    assert given == [torch.float32] * 2


def test_statistics_of_batch_norm_are_those_of_its_inputs_in_float64(learner: Make, batch: Batch) -> None:
    model, given = learner(HALF).train(), []
    norm = first(model, torch.nn.BatchNorm2d)
    norm.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0].detach()))
    METHODS["supcon"].step(model, batch, 1)
    assert given[0].dtype == torch.bfloat16
    values = given[0].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * values.mean(1), atol=1e-7, rtol=1e-5)
    expected = 0.9 + 0.1 * values.var(1, unbiased=True)
    torch.testing.assert_close(norm.running_var.double(), expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize("how", ["excon.explain_bn=eval", "excon.explain_bn=train"])
def test_explanations_are_those_of_float32_to_the_last_bit(how: str, learner: Make, batch: Batch) -> None:
    ours, theirs = (explained_views(learner(*more, how), batch) for more in ((HALF,), ()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_is_near_that_in_float32_and_not_the_same(learner: Make, batch: Batch) -> None:
    half, full = (METHODS["supcon"].step(learner(*more).train(), batch, 1).loss.item() for more in ((HALF,), ()))
    assert 0 < abs(half - full) < 0.02 * full


class Switches:
    """What PyTorch's switches for TF32 are in the passes of one epoch of ExCon, by where they are looked at."""

    def __init__(self, learner: Learner, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[str, set[tuple[bool, bool]]] = {}
        layer, true = first(learner, torch.nn.Conv2d), methods.supcon
        layer.register_forward_hook(lambda module, *_: self.look("training" if module.training else "explaining"))
        next(learner.projection.parameters()).register_hook(lambda _gradient: self.look("backward"))
        monkeypatch.setattr(methods, "supcon", lambda *given, **more: self.look("loss") or true(*given, **more))
        optimizer = make_optimizer(learner.parameters(), learner.recipe.optimizer)
        with exact(learner.recipe.precision):
            encoder_epoch(learner, METHODS["excon"], pool, optimizer, epoch=1, progress=Silent())

    def look(self, where: str) -> None:
        now = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        self.found.setdefault(where, set()).add(now)


@pytest.mark.parametrize(
    ("named", "training", "rest"),
    [
        (["precision=tf32"], (True, True), (False, False)),
        (["precision=float32"], (False, False), (False, False)),
        ([HALF], (False, False), (False, False)),
        ([], (False, True), (False, True)),  # PyTorch's default: convolutions only
    ],
)
def test_products_are_in_tf32_where_the_recipe_says_so(
    named: list[str], training: Any, rest: Any, learner: Make, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    found = Switches(learner(*named), pool, monkeypatch).found
    assert found == {"training": {training}, "backward": {training}, "explaining": {rest}, "loss": {rest}}
    assert before == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, True)


def test_a_cpu_has_no_tf32(recipe: Settings, out: Path) -> None:
    with pytest.raises(UsageError, match=r"^cpu has no tf32 — set precision to bfloat16 or float32 in the recipe"):
        run(recipe("ce", "precision=tf32"), out, device="cpu")
    assert not list(out.rglob("*.safetensors"))


def test_float32_on_a_cpu_is_what_is_done_without_a_precision(recipe: Settings, out: Path) -> None:
    assert_same_run(run(recipe("ce", "precision=float32"), out / "named"), run(recipe("ce"), out / "plain"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.conftest import SMALL
    from xeval.training.recipe import load_recipe

    return run(load_recipe("digits", "excon", [*SMALL, HALF]), tmp_path_factory.mktemp("whole"))


def test_a_run_in_bfloat16_is_judged_in_float32_and_its_card_says_so(whole: Path) -> None:
    card = read_card(whole)
    assert card.recipe["precision"] == "bfloat16"
    split = open_dataset("digits", None, 8).split("train")
    sample = stratified(split.labels, 60, 0)
    held = sample[holdout(split.labels[sample], 0.2, 0)[1]]
    images, labels = normalize(split.read(held), split.info), torch.from_numpy(split.labels[held])
    with torch.no_grad():
        logits: Tensor = load_model(whole, weights="last").model.eval()(images)
    assert float(rows(whole)[-1]["val_loss"]) == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_a_run_in_bfloat16_goes_on_to_the_same_bits_and_in_no_other_precision(
    whole: Path, recipe: Settings, out: Path
) -> None:
    with pytest.raises(Stop):
        run(recipe("excon", HALF), out, progress=Interrupt(1, step=1))
    for other, told in ((), "None"), (("precision=float32",), "'float32'"):
        with pytest.raises(UsageError, match=rf"recipe\.precision was 'bfloat16', now {told}"):
            run(recipe("excon", *other), out)
    assert_same_run(run(recipe("excon", HALF), out), whole)
    with pytest.raises(UsageError, match=r"recipe\.precision was 'bfloat16', now None"):
        run(recipe("excon"), out)


def test_without_a_precision_nothing_is_switched() -> None:
    assert isinstance(exact(None), nullcontext)
