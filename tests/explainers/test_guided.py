import pytest
import torch

from tests.explainers.networks import Functional, seeded, settled, tiny_vit
from tests.scenes import images, small_model
from xeval.errors import UsageError
from xeval.explainers import cam
from xeval.explainers.gradients import guided_backprop
from xeval.explainers.guided import guided_grad_cam

TARGETS = torch.tensor([0, 1, 2])


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("layer", ["backbone.layer3", "backbone.layer2"])
def test_equals_captum(layer):
    """Which multiplies every colour; the largest absolute value over colours is taken, as for its factor."""
    from captum.attr import GuidedGradCam

    model, x = settled(small_model()), images(3)
    found = guided_grad_cam(model, layer, x, TARGETS)
    method = GuidedGradCam(model, model.get_submodule(layer))
    captum = method.attribute(x, TARGETS, interpolate_mode="bilinear").detach()
    wanted = captum.abs().amax(1, keepdim=True)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert found.shape == (3, 1, 16, 16)


def test_nothing_is_left_where_the_coarse_map_is_negative():
    model, x = settled(small_model()), images(3)
    found = guided_grad_cam(model, "backbone.layer3", x, TARGETS)
    coarse = cam.upsample(cam.grad_cam(model, "backbone.layer3", x, TARGETS).clamp_min(0), (16, 16)).detach()
    assert bool((found[coarse == 0] == 0).all())
    rates = guided_backprop(model, "", x, TARGETS)
    assert torch.allclose(found, rates * coarse)
    assert 0 < float((coarse == 0).float().mean()) < 1


@pytest.mark.parametrize("model", [tiny_vit, lambda: seeded(Functional)])
def test_networks_without_the_rule_are_refused(model):
    with pytest.raises(UsageError, match="guided-backprop has no rule for"):
        guided_grad_cam(model(), "first", images(1, side=32), TARGETS[:1])
