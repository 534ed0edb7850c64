"""What holds for every registered explainer, whoever wrote it."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.networks import (
    OF_ATTENTION,
    Plain,
    attentive,
    seeded,
    settled,
    tiny_vit,
    torchvision_resnet,
)
from tests.scenes import images, small_model
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS
from xeval.models import ModelSpec, build, frozen_eval

NAMES = list(EXPLAINERS)
CAMS = [name for name in NAMES if name.endswith(("cam", "cam++", "numpy", "signed")) and name != "guided-grad-cam"]
OF_IMAGES = [name for name in NAMES if name not in OF_ATTENTION]
GRIDS = ["lime", "kernel-shap"]
RATES = {"saliency", "smoothgrad", "guided-backprop"}
WITH_RULES = ["deep-lift", "guided-backprop", "guided-grad-cam", "lrp"]
LAYER = "backbone.layer3"


def explain(name, model, layer, x, targets):
    with frozen_eval(model):
        return EXPLAINERS[name].explain(model, layer, x, targets)


def subject(name):
    """A network that the explainer is made for."""
    return settled(attentive() if name in OF_ATTENTION else small_model())


def close(found, expected, tolerance=1e-5):
    """Equal to 1e-5 of the largest value."""
    return torch.allclose(found, expected, atol=tolerance * max(1e-6, float(expected.abs().max())))


def test_units():
    assert {name for name in NAMES if EXPLAINERS[name].units == "gradient"} == RATES
    assert all(EXPLAINERS[name].citation for name in NAMES)
    assert len(NAMES) >= 23


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 16), (1, 64)])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_shapes_and_finite_values_also_for_constant_images(name, channels, side):
    model, layer = settled(small_model(channels)), LAYER
    constant = torch.full((channels, side, side), 0.4)
    x = torch.stack([images(1, channels, side)[0], constant, torch.zeros_like(constant)])
    if side == 64:  # cheaper, with the same grid
        model, layer = (
            seeded(build, ModelSpec(arch="cnn-tiny", num_classes=4, in_channels=1, image_size=64)),
            "backbone.stage",
        )
    with torch.no_grad():
        likeliest = model(x).argmax(1)  # a class that something speaks for: guided-grad-cam shows nothing else
    found = explain(name, model, layer, x, likeliest)
    grid = side // 4 if name in CAMS else 8 if name in GRIDS else side
    assert found.shape == (len(x), 1, grid, grid)
    assert found.isfinite().all()
    assert not found.requires_grad
    assert found.dtype == torch.float32
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("name", CAMS)
def test_a_map_of_one_cell(name):
    model, x = small_model(), images(2, side=4)  # three stages leave 1×1
    found = explain(name, model, LAYER, x, torch.tensor([0, 1]))
    assert found.shape == (2, 1, 1, 1)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", OF_ATTENTION)
def test_attention_of_constant_images_has_a_finite_map(name):
    x = torch.stack([images(1)[0], torch.full((3, 16, 16), 0.4), torch.zeros(3, 16, 16)])
    found = explain(name, subject(name), "", x, torch.arange(3))
    assert found.shape == (3, 1, 4, 4)
    assert found.isfinite().all()
    assert not found.requires_grad
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_maps_depend_on_their_image_alone(name):
    model, x, targets = subject(name), images(5, seed=3), torch.tensor([0, 1, 2, 3, 0])
    x[1], order = 0, torch.tensor([3, 1, 4, 0, 2])
    together = explain(name, model, LAYER, x, targets)
    shuffled = explain(name, model, LAYER, x[order], targets[order])
    assert close(shuffled, together[order])
    for n in (1, 4):
        alone = explain(name, model, LAYER, x[n : n + 1], targets[n : n + 1])
        assert torch.allclose(alone, together[n : n + 1], atol=1e-5 * float(together.abs().max())), n


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_left_as_it_was(name):
    model, x, targets = subject(name), images(2), torch.tensor([0, 1])
    before, image = copy.deepcopy(model.state_dict()), x.clone()
    attributes = {key: set(vars(module)) for key, module in model.named_modules()}
    parameters = [parameter.data_ptr() for parameter in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EXPLAINERS[name].explain(model, LAYER, x, targets)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [parameter.data_ptr() for parameter in model.parameters()] == parameters
    assert {key: set(vars(module)) for key, module in model.named_modules()} == attributes
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(x, image)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_in_place_activations_are_harmless(name):
    x, targets = images(2), torch.tensor([0, 1])
    found = explain(name, seeded(Plain, inplace=True), "second", x, targets)
    assert close(found, explain(name, seeded(Plain), "second", x, targets))


@pytest.mark.parametrize("name", OF_ATTENTION)
def test_frozen_attention_can_be_explained(name):
    x, targets = images(2), torch.tensor([0, 1])
    frozen = attentive().requires_grad_(False)
    assert close(explain(name, frozen, "", x, targets), explain(name, attentive(), "", x, targets))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_frozen_parameters_can_be_explained(name):
    x, targets = images(2), torch.tensor([0, 1])
    frozen = seeded(Plain).requires_grad_(False)
    assert close(explain(name, frozen, "act2", x, targets), explain(name, seeded(Plain), "act2", x, targets))


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "deep-lift"])
def test_torchvision_resnet(name):
    model = torchvision_resnet()
    if name in (
        *GRIDS,
        "occlusion",
        "score-cam",
        "ablation-cam",
    ):  # many passes: the stem and the first stage are enough
        model = nn.Sequential(model.conv1, model.bn1, model.relu, model.layer1, model.avgpool, nn.Flatten())
        layer, classes = "3", 64
    else:
        layer, classes = "layer4", 4
    found = explain(name, model.eval(), layer, images(1, side=32 if classes == 64 else 64), torch.tensor([classes - 1]))
    assert found.isfinite().all()
    assert found.shape[:2] == (1, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CAMS and name not in WITH_RULES])
def test_vision_transformers_have_input_attributions(name):
    found = explain(name, tiny_vit(), "encoder", images(2, side=32), torch.tensor([0, 3]))
    assert found.isfinite().all()
    assert found.shape[0] == 2


@pytest.mark.parametrize("name", CAMS)
def test_vision_transformers_have_no_class_activation_map_behind_their_tokens(name):
    with pytest.raises(UsageError, match="no N×K×h×w feature map"):
        explain(name, tiny_vit(), "heads", images(2, side=32), torch.tensor([0, 3]))


@pytest.mark.parametrize("name", CAMS)
def test_the_tokens_of_vision_transformers_are_their_grid(name):
    found = explain(name, tiny_vit(), "encoder", images(2, side=32), torch.tensor([0, 3]))
    assert found.shape[:2] == (2, 1)
    assert found.shape[2] == found.shape[3] > 1
