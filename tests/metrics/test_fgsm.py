from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.scenes import SIDE, MeanOfPixels, explained, images, region, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.fgsm import fgsm

METRIC = METRICS["fgsm"]


def accuracy(scene, step: float = 4 / 255):
    settings = METRIC.settings(step=step)
    return METRIC.score(explained(scene, images(1, 1)), settings, METRIC.prepare(scene, settings))[
        "fgsm.accuracy"
    ].value


def test_by_hand():
    """The logit is 6 × the mean inside the region: the attack lowers every pixel there by the step and no other."""
    x = torch.full((1, 1, SIDE, SIDE), 0.4)
    model, low, high = MeanOfPixels(region()), torch.tensor([[[-2.0]]]), torch.tensor([[[2.0]]])
    moved = fgsm(model, x, torch.tensor([0]), torch.tensor([[[0.1]]]), low, high)
    assert torch.allclose(moved[0, 0], 0.4 - 0.1 * region())
    away = fgsm(model, x, torch.tensor([1]), torch.tensor([[[0.1]]]), low, torch.tensor([[[0.45]]]))
    assert torch.allclose(away[0, 0], 0.4 + 0.05 * region())  # clamped


def test_the_step_is_in_pixel_units():
    """One image lies 3/255 of a pixel unit inside the decision, one 5/255: the first falls, the second stands."""
    scene = scene_of(MeanOfPixels(region()), torch.zeros(2, 3, SIDE, SIDE))
    margin = torch.tensor([3.0, 5.0]).reshape(2, 1, 1, 1) / 255 * scene.pixel
    scene = replace(scene, images=margin.expand(2, 3, SIDE, SIDE).clone(), labels=torch.tensor([0, 0]))
    assert accuracy(scene).tolist() == [0, 1]
    assert accuracy(scene, step=2 / 255).tolist() == [1, 1]


def test_equals_captum():
    from captum.robust import FGSM

    model, x = small_model(), images(6)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    found = fgsm(model, x, labels, torch.tensor(0.03), torch.tensor(-2.0), torch.tensor(2.0))
    attack = FGSM(model, loss_func=nn.CrossEntropyLoss(reduction="none"), lower_bound=-2.0, upper_bound=2.0)
    theirs = attack.perturb(x.clone(), epsilon=0.03, target=labels)
    same = (found - theirs).abs() < 1e-6
    assert same.double().mean() > 0.999  # a gradient at the edge of float32 may round to the other sign


def test_a_saturated_softmax_still_has_a_gradient():
    model = MeanOfPixels(region(), gain=500.0)
    x = torch.full((1, 1, SIDE, SIDE), 0.4)
    assert float(model(x).softmax(1)[0, 0]) == 1  # in float32
    moved = fgsm(model, x, torch.tensor([0]), torch.tensor(0.1), torch.tensor(-2.0), torch.tensor(2.0))
    assert torch.allclose(moved[0, 0], 0.4 - 0.1 * region())


def test_the_model_is_left_alone_and_a_larger_step_hurts_more():
    model, x = small_model(), images(40).clamp(-1.9, 1.9)
    scene = scene_of(model, x)
    for parameter in model.parameters():
        assert parameter.requires_grad
    assert accuracy(scene, step=0.5).mean() < 0.5
    assert accuracy(scene, step=1e-7).mean() == 1  # labels are the predictions here
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_matter(batch_size):
    assert torch.equal(
        accuracy(scene_of(small_model(), images(8), batch_size=batch_size)),
        accuracy(scene_of(small_model(), images(8))),
    )
