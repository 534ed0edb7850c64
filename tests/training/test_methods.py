"""One step of each method: losses, ExCon's views, BatchNorm left alone, batches where all or none is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xeval.explainers.base import Explainer
from xeval.explainers.cam import grad_cam
from xeval.training import methods
from xeval.training.batches import Batch
from xeval.training.learner import Learner
from xeval.training.losses import supcon
from xeval.training.methods import METHODS, explained_views
from xeval.training.views import masked_view

Make = Callable[..., Learner]


def buffers(learner: Learner) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in learner.model.named_buffers()}


def always_predict(learner: Learner, label: int) -> None:
    with torch.no_grad():
        learner.model.head.weight.mul_(0.01)
        learner.model.head.bias.copy_(100.0 * torch.nn.functional.one_hot(torch.tensor(label), 10))


def relabel(batch: Batch, label: int) -> Batch:
    return replace(batch, labels=torch.full_like(batch.labels, label), whole=torch.full_like(batch.whole, label))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_gives_a_finite_loss_with_gradients(name: str, learner: Make, batch: Batch) -> None:
    model = learner().train()
    step = METHODS[name].step(model, batch, 1)
    step.loss.backward()
    assert torch.isfinite(step.loss)
    gradients = [parameter.grad for parameter in model.model.backbone.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ["supcon", "supcon-ori", "simclr", "excon", "exconb", "triplet"])
def test_the_encoder_step_leaves_the_head_alone(name: str, learner: Make, batch: Batch) -> None:
    model = learner().train()
    METHODS[name].step(model, batch, 1).loss.backward()
    assert model.model.head.weight.grad is None


def test_simclr_does_not_look_at_labels(learner: Make, batch: Batch) -> None:
    model = learner().eval()
    losses = {METHODS["simclr"].step(model, relabel(batch, label), 1).loss.item() for label in (0, 1)}
    losses.add(METHODS["simclr"].step(model, batch, 1).loss.item())
    assert len(losses) == 1


def test_supcon_looks_at_two_different_random_views(learner: Make, batch: Batch) -> None:
    model = learner().eval()
    views = [model.view(batch, f"encoder:5:{number}", model.recipe.views) for number in (0, 1)]
    assert not torch.equal(*views)
    expected = supcon(model.embed(torch.cat(views)), batch.labels.repeat(2), temperature=0.1)
    torch.testing.assert_close(METHODS["supcon"].step(model, batch, 5).loss, expected)


@pytest.mark.fault("T9")
def test_explaining_leaves_every_buffer_and_flag_as_it_was(learner: Make, batch: Batch) -> None:
    model = learner().train()
    before = buffers(model)
    explained_views(model, batch)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.model.named_buffers())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("layer", ["backbone.layer3", "backbone.layer3.0.conv2"])
def test_as_published_explaining_updates_the_statistics_three_times(layer: str, learner: Make, batch: Batch) -> None:
    model = learner('excon.explain_bn="train"', f'excon.layer="{layer}"').train()
    model.model.eval()
    explained_views(model, batch)
    assert int(model.model.backbone.bn1.num_batches_tracked) == 3
    assert not any(module.training for module in model.model.modules())


@pytest.mark.parametrize("target", ["label", "predicted"])
@pytest.mark.parametrize("layer", [None, "backbone.layer3.0.conv2"])
def test_masked_views_by_definition(layer: str | None, target: str, learner: Make, batch: Batch) -> None:
    model = learner(f"excon.target={target}", *([f'excon.layer="{layer}"'] if layer else [])).eval()
    standard = model.standard(batch)
    classes = batch.labels if target == "label" else model.model(standard).argmax(1)
    maps = grad_cam(model.model, layer or "backbone.layer3", standard, classes)
    expected = masked_view(standard, maps, 0.5)
    masked, accepted = explained_views(model, batch)
    torch.testing.assert_close(masked, expected)
    assert torch.equal(accepted, model.model(expected).argmax(1) == batch.labels)


def test_another_registered_explainer_will_do(learner: Make, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower_half(_model: object, layer: str, images: Tensor, _targets: Tensor) -> Tensor:
        assert layer == "backbone.layer3"
        return torch.tensor([[0.0], [1.0]]).expand(len(images), 1, 2, 1)

    known = {"lower-half": Explainer("lower-half", lower_half, "location", "none")}
    monkeypatch.setattr(methods, "EXPLAINERS", known)
    model = learner("excon.explainer=lower-half").eval()
    expected = model.standard(batch)
    expected[:, :, :4] = 0
    assert torch.equal(explained_views(model, batch)[0], expected)


def test_accepted_masked_images_replace_the_first_view(
    learner: Make, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learner().eval()
    accepted = torch.arange(24) % 3 == 0
    masked = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(methods, "explained_views", lambda *_: (masked, accepted))
    first, second = (model.view(batch, f"encoder:2:{number}", model.recipe.views) for number in (0, 1))
    mixed = torch.stack([masked[row] if accepted[row] else first[row] for row in range(24)])
    labels, real = batch.labels.repeat(2), torch.cat([mixed, second])
    step = METHODS["excon"].step(model, batch, 2)
    torch.testing.assert_close(step.loss, supcon(model.embed(real), labels))
    assert step.accepted is not None
    assert step.accepted.item() == pytest.approx(1 / 3)
    expected = supcon(model.embed(real), labels, background=model.embed(masked[~accepted].repeat(2, 1, 1, 1)))
    torch.testing.assert_close(METHODS["exconb"].step(model, batch, 2).loss, expected)
    once = learner("excon.background_copies=1").eval()
    torch.testing.assert_close(METHODS["exconb"].step(once, batch, 2).loss, expected)


def test_two_background_copies_give_batchnorm_the_statistics_of_two(
    learner: Make, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode the loss is that of 2n + 2b images in one pass, written out; one copy gives another value."""
    accepted = torch.arange(24) % 2 == 0
    masked = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(methods, "explained_views", lambda *_: (masked, accepted))
    loss = {}
    for copies in (None, 2, 1):
        model = learner(*([] if copies is None else [f"excon.background_copies={copies}"])).train()
        loss[copies] = METHODS["exconb"].step(model, batch, 2).loss.item()
    model = learner().train()
    first, second = (model.view(batch, f"encoder:2:{number}", model.recipe.views) for number in (0, 1))
    views = torch.where(accepted[:, None, None, None], masked, first)
    embedded = model.embed(torch.cat([views, second, masked[~accepted], masked[~accepted]]))
    expected = supcon(embedded[:48], batch.labels.repeat(2), background=embedded[48:]).item()
    assert loss[None] == loss[2] == pytest.approx(expected, abs=1e-6)
    assert abs(loss[1] - expected) > 1e-4


@pytest.mark.fault("T6")
@pytest.mark.parametrize("name", ["excon", "exconb"])
@pytest.mark.parametrize(("label", "share"), [(3, 1.0), (4, 0.0)])
def test_all_or_none_of_the_masked_images_accepted(
    name: str, label: int, share: float, learner: Make, batch: Batch
) -> None:
    model = learner().train()
    always_predict(model, 3)
    step = METHODS[name].step(model, relabel(batch, label), 1)
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert step.accepted is not None
    assert step.accepted.item() == share
    rows = 47 + (2 * 24 if name == "exconb" and not share else 0)
    assert step.collapsed == pytest.approx(torch.tensor(rows).double().log().item())


@pytest.mark.parametrize("name", ["excon", "exconb"])
def test_before_explanations_start_it_is_supcon(name: str, learner: Make, batch: Batch) -> None:
    model = learner("excon.explain_from_epoch=2").eval()
    step = METHODS[name].step(model, batch, 1)
    torch.testing.assert_close(step.loss, METHODS["supcon"].step(model, batch, 1).loss)
    assert step.accepted is None
    assert METHODS[name].step(model, batch, 2).accepted is not None


@pytest.mark.parametrize("start", [0, 1])
def test_epochs_count_from_one(start: int, learner: Make, batch: Batch) -> None:
    assert METHODS["excon"].step(learner(f"excon.explain_from_epoch={start}").eval(), batch, 1).accepted is not None


def test_the_same_seed_gives_the_same_weights_whatever_the_global_generator(learner: Make) -> None:
    first = learner().state_dict()
    torch.rand(3)
    second = learner().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
