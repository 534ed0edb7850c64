"""Learning rates by hand."""

from __future__ import annotations

import pytest
import torch

from xeval.training.recipe import load_recipe
from xeval.training.schedule import learning_rate, make_optimizer, set_rate
from xeval.training.settings import Optimizer


def test_cosine_ends_at_a_thousandth() -> None:
    settings = Optimizer(lr=0.5, schedule="cosine")
    rates = [learning_rate(settings, epoch, 200, 0, 10) for epoch in (100, 200)]
    assert rates == pytest.approx([0.25025, 0.0005])


def test_the_rate_is_constant_within_an_epoch_after_the_warm_up() -> None:
    settings = Optimizer(lr=0.5)
    assert len({learning_rate(settings, 3, 200, step, 10) for step in range(10)}) == 1


def test_steps_after_their_milestones() -> None:
    settings = Optimizer(lr=5, schedule="step", milestones=(60, 75, 90), gamma=0.2)
    rates = [learning_rate(settings, epoch, 100, 0, 1) for epoch in (60, 61, 76, 91)]
    assert rates == pytest.approx([5, 1, 0.2, 0.04])


def test_constant() -> None:
    assert learning_rate(Optimizer(lr=0.3, schedule="constant"), 7, 9, 3, 5) == 0.3


def test_warm_up_is_linear_per_step_and_meets_the_schedule() -> None:
    settings = Optimizer(lr=1.0, schedule="constant", warmup_epochs=2, warmup_from=0.2)
    rates = [learning_rate(settings, epoch, 10, step, 4) for epoch in (1, 2) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert learning_rate(settings, 3, 10, 0, 4) == 1.0


def test_warm_up_to_the_cosine_value_of_its_last_epoch() -> None:
    settings = Optimizer(lr=0.5, warmup_epochs=10, warmup_from=0.01)
    plain = learning_rate(Optimizer(lr=0.5), 10, 1000, 0, 1)
    halfway = learning_rate(settings, 6, 1000, 0, 100)
    assert halfway == pytest.approx((0.01 + plain) / 2)


@pytest.mark.parametrize("recipe", ["clxai-cifar10-ce", "clxai-cifar10-supcon", "clxai-cifar10-triplet"])
def test_the_clxai_schedules_are_torchs_warm_up_and_cosine_to_zero(recipe: str) -> None:
    """Read at the start of every epoch, where torch's change; ours also rises within the epochs of the warm-up."""
    settings, epochs = load_recipe(recipe).optimizer, load_recipe(recipe).epochs
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], settings.lr)
    warm = settings.warmup_epochs
    schedule: torch.optim.lr_scheduler.LRScheduler
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs - warm)
    if warm:
        rising = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warm)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, schedule], [warm])
    theirs = []
    for _ in range(epochs):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = [learning_rate(settings, epoch, epochs, 0, 10) for epoch in range(1, epochs + 1)]
    assert warm == (0 if recipe.endswith("ce") else 10)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adamw", "AdamW"), ("radam", "RAdam")])
def test_optimisers(name: str, kind: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([parameter], Optimizer(name=name, lr=0.1, weight_decay=0.01))  # type: ignore[arg-type]
    set_rate(optimizer, 0.05)
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_steps_in_one_kernel_are_those_of_several(name: str, kind: type[torch.optim.Optimizer]) -> None:
    """The fused kernels, which CUDA gets, on the CPU, where nothing but them differs."""
    settings = Optimizer(name=name, lr=0.1, weight_decay=0.01)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    optimizer = make_optimizer([ours], settings)
    assert optimizer.param_groups[0]["fused"] is None
    momentum = {"momentum": settings.momentum} if name == "sgd" else {}
    fused = kind([theirs], lr=0.1, weight_decay=0.01, fused=True, **momentum)  # type: ignore[call-arg]
    for step in range(1, 6):
        for one, by in ((ours, optimizer), (theirs, fused)):
            one.grad = torch.linspace(0, 1, 9) * step
            by.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
