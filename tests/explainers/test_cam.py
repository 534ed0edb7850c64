import pytest
import torch
from torch import nn

from tests.scenes import images, small_model
from xeval.errors import UsageError
from xeval.explainers import EXPLAINERS, cam
from xeval.models import Classifier, ModelSpec, build, frozen_eval


def autograd_grad_cam(model, x, targets):
    """Grad-CAM by its definition: channel weights are position means of the gradient of the logit."""
    features = model.stages(x).detach().requires_grad_()
    logits = model.logits(features.mean((-2, -1)))
    gradient = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), features)[0]
    out = torch.zeros(len(x), 1, *features.shape[-2:])
    for n in range(len(x)):
        for k in range(features.shape[1]):
            out[n, 0] += gradient[n, k].mean() * features[n, k]
    return out.detach()


@pytest.mark.parametrize("channels", [1, 3])
def test_closed_form_equals_autograd_and_captum(channels):
    from captum.attr import LayerGradCam

    model, x = small_model(channels), images(5, channels)
    targets = torch.tensor([0, 1, 2, 3, 1])
    found = cam.grad_cam(model, model.pooled_layer, x, targets)
    assert found.shape == (5, 1, 4, 4)
    assert torch.allclose(found, autograd_grad_cam(model, x, targets), atol=1e-6)
    captum = LayerGradCam(model, model.backbone.layer3).attribute(x, targets)
    assert torch.allclose(found, captum.detach(), atol=1e-6)
    assert found.min() < 0 < found.max()  # signed: nothing was clipped


@pytest.mark.parametrize("layer", ["backbone.layer1", "backbone.layer2.0.conv2", "backbone.conv1"])
def test_inner_layers_equal_captum(layer):
    from captum.attr import LayerGradCam

    model, x, targets = small_model(), images(3), torch.tensor([2, 0, 1])
    found = cam.grad_cam(model, layer, x, targets)
    captum = LayerGradCam(model, model.get_submodule(layer)).attribute(x, targets)
    assert torch.allclose(found, captum.detach(), atol=1e-6)


def test_normalised_features_go_through_autograd():
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    spec = ModelSpec(arch="cnn-tiny", num_classes=3, in_channels=3, image_size=16, normalize_features=True)
    model, x, targets = build(spec).eval(), images(4), torch.tensor([0, 1, 2, 0])
    assert not cam.closed_form_applies(model, model.pooled_layer)
    found = cam.grad_cam(model, model.pooled_layer, x, targets)
    captum = LayerGradCam(model, model.backbone.stage).attribute(x, targets)
    assert torch.allclose(found, captum.detach(), atol=1e-6)
    wrong = cam.closed_form(model.stages(x), model.head.weight, targets)
    assert not torch.allclose(found, wrong, atol=1e-3)


def test_model_is_left_as_it_was():
    model, x, targets = small_model(), images(2), torch.tensor([0, 1])
    with frozen_eval(model):
        cam.grad_cam(model, "backbone.layer2", x, targets)
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())


def test_in_place_activation_behind_the_layer_is_harmless():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.act(self.conv(x)).mean((-2, -1)))

    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    inplace = Net().eval()
    plain = Net().eval()
    plain.load_state_dict(inplace.state_dict())
    plain.act = nn.ReLU()
    x, targets = images(2), torch.tensor([0, 1])
    captum = LayerGradCam(plain, plain.conv).attribute(x, targets).detach()
    assert torch.allclose(cam.grad_cam(inplace, "conv", x, targets), captum, atol=1e-6)


def test_maps_do_not_depend_on_the_batch():
    model, x = small_model(), images(7)
    targets = torch.arange(7) % 4
    for layer in ("backbone.layer3", "backbone.layer1"):
        together = cam.grad_cam(model, layer, x, targets)
        single = torch.cat([cam.grad_cam(model, layer, x[i : i + 1], targets[i : i + 1]) for i in range(7)])
        assert torch.allclose(together, single, atol=1e-6)


def test_unknown_and_unfit_layers():
    model, x = small_model(), images(1)
    with pytest.raises(UsageError, match="did you mean 'backbone.layer3'"):
        cam.grad_cam(model, "backbone.layer33", x, torch.tensor([0]))
    with pytest.raises(UsageError, match="no N×K×h×w"):
        cam.grad_cam(model, "head", x, torch.tensor([0]))


def test_registered():
    assert EXPLAINERS["grad-cam"].units == "location"
    assert isinstance(small_model(), Classifier)


@pytest.mark.parametrize(
    ("small", "large"),
    [((4, 4), (16, 16)), ((7, 7), (32, 32)), ((3, 5), (8, 12)), ((1, 1), (8, 8)), ((16, 16), (8, 8))],
)
def test_upsampling_equals_torch(small, large):
    maps = torch.randn(3, 1, *small, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(maps, large, mode="bilinear", align_corners=False)
    assert torch.allclose(cam.upsample(maps, large), expected, atol=1e-6)


def test_upsampling_keeps_ties_exact():
    maps = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 3
    up = cam.upsample(maps, (16, 16))
    assert torch.equal(up[..., 0, :], up[..., 1, :])
    assert (up[..., :2, :2] == maps[..., :1, :1]).all()
    assert (cam.upsample(torch.full((1, 1, 4, 4), 0.1), (32, 32)) == torch.tensor(0.1)).all()
