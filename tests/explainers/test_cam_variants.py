import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.networks import OneChannel, seeded
from tests.scenes import images, small_model
from xeval.explainers import EXPLAINERS, cam, cam_variants, chunks
from xeval.models import ModelSpec, build

TARGETS = torch.tensor([0, 1, 2, 3, 1])
LAYERS = ["backbone.layer3", "backbone.layer2.0.conv2", "backbone.layer1"]
CLASSES = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "layer-cam": "LayerCAM",
    "eigen-cam": "EigenCAM",
    "eigen-cam-numpy": "EigenCAM",
    "score-cam": "ScoreCAM",
    "hires-cam": "HiResCAM",
    "xgrad-cam": "XGradCAM",
}


def library(name, model, layer, x, targets):
    """pytorch-grad-cam's map before it is clipped, scaled and resized (N×1×h×w), and its final result (N×H×W)."""
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = copy.deepcopy(model)  # the library leaves gradients behind
    module, wanted = model.get_submodule(layer), [ClassifierOutputTarget(int(t)) for t in targets]
    with getattr(pytorch_grad_cam, CLASSES[name])(model, [module]) as method:
        final = method(x, targets=wanted)
        seen = method.activations_and_grads
        activations = seen.activations[0].numpy()
        gradients = seen.gradients[0].numpy() if seen.gradients else None
        if name == "score-cam":  # its own passes have overwritten what the hook saw first
            seen(x)
            activations = seen.activations[0].numpy()
        raw = method.get_cam_image(x, module, wanted, activations, gradients, False)
    return torch.from_numpy(raw).unsqueeze(1), torch.from_numpy(final)


def scaled(maps, size):
    """A map as pytorch-grad-cam returns it: clipped at 0, upsampled, min-max scaled."""
    up = cam.upsample(maps.clamp_min(0), size)[:, 0]
    up = up - up.amin((-2, -1), keepdim=True)
    return up / up.amax((-2, -1), keepdim=True)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "score-cam"])
def test_equals_pytorch_grad_cam(name, layer):
    model, x = small_model(), images(5)
    raw, final = library(name, model, layer, x, TARGETS)
    found = EXPLAINERS[name].explain(model, layer, x, TARGETS)
    assert found.shape == raw.shape
    if name == "eigen-cam":  # the sign of a singular vector is whatever the library that computes it makes it
        found = found * (found * raw).sum((-2, -1), keepdim=True).sign()
    scale = raw.abs().amax((-2, -1), keepdim=True)
    assert torch.allclose(found / scale, raw / scale, atol=1e-5)
    assert torch.allclose(scaled(found, (16, 16)), final, atol=1e-4)  # the library's resize is OpenCV's


@pytest.mark.parametrize("layer", LAYERS)
def test_score_cam_equals_pytorch_grad_cam(layer, monkeypatch):
    # The library upsamples with align_corners True; where maps are as large as the image that makes no difference.
    resize = lambda size: nn.Upsample(size=size, mode="bilinear", align_corners=False)  # noqa: E731
    if layer != "backbone.layer1":
        monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", resize)
    model, x = small_model(), images(2)
    raw, _ = library("score-cam", model, layer, x, TARGETS[:2])
    found = cam_variants.score_cam(model, layer, x, TARGETS[:2])
    assert torch.allclose(found, raw, atol=1e-5 * float(raw.abs().max()))


def test_one_channel_by_hand():
    model, layer = OneChannel(), "conv"
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    for target, gradient in ((0, 0.5), (1, -0.25)):
        t = torch.tensor([target])
        assert torch.allclose(cam.grad_cam(model, layer, x, t), gradient * x)
        assert torch.allclose(cam_variants.layer_cam(model, layer, x, t), max(gradient, 0) * x)
        assert torch.allclose(cam_variants.hires_cam(model, layer, x, t), gradient * x)
        assert torch.allclose(cam_variants.xgrad_cam(model, layer, x, t), gradient * x)
        alpha = gradient**2 / (2 * gradient**2 + 10 * gradient**3 + 1e-6)
        expected = 4 * alpha * max(gradient, 0) * x
        assert torch.allclose(cam_variants.grad_cam_plus_plus(model, layer, x, t), expected)
        assert torch.allclose(cam_variants.score_cam(model, layer, x, t), x)
        assert torch.allclose(cam_variants.eigen_cam_signed(model, layer, x, t), x - 2.5)
        assert torch.allclose(cam_variants.eigen_cam(model, layer, x, t).abs(), (x - 2.5).abs())


def test_grad_cam_plus_plus_from_its_definition():
    model, x, layer = small_model(), images(2), "backbone.layer3"
    activations, g = cam.activations_and_gradient(model, layer, x, TARGETS[:2])
    a, g = activations.double().numpy(), g.double().numpy()
    expected = np.zeros((2, 4, 4))
    for n in range(2):
        for k in range(a.shape[1]):
            weight = 0.0
            for i in range(4):
                for j in range(4):
                    slope = g[n, k, i, j]
                    alpha = slope**2 / (2 * slope**2 + slope**3 * a[n, k].sum() + 1e-6)
                    weight += alpha * max(slope, 0)
            expected[n] += weight * a[n, k]
    found = cam_variants.grad_cam_plus_plus(model, layer, x, TARGETS[:2])[:, 0].numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-8)


class FlatHead(nn.Module):
    """A linear layer on every position of a feature map."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


def test_hires_cam_adds_up_where_a_linear_layer_reads_the_map():
    """And Grad-CAM, which averages the gradients, does not; behind average pooling, the two are one."""
    model, x = seeded(FlatHead), images(3, side=8)
    t = TARGETS[:3] % 3
    logits = model(x).gather(1, t[:, None])[:, 0] - model.head.bias[t]
    found = cam_variants.hires_cam(model, "conv", x, t)
    assert torch.allclose(found.sum((1, 2, 3)), logits, atol=1e-5)
    parts = (model.head.weight[t] * model.conv(x).flatten(1)).reshape(3, 4, 6, 6).sum(1)
    assert torch.allclose(found[:, 0], parts, atol=1e-6)
    assert not torch.allclose(cam.grad_cam(model, "conv", x, t).sum((1, 2, 3)), logits, atol=1e-2)
    pooled, layer = small_model(), "backbone.layer3"
    found = cam_variants.hires_cam(pooled, layer, x, t)
    assert torch.allclose(found, cam.grad_cam(pooled, layer, x, t), atol=1e-6)


def test_xgrad_cam_from_its_definition():
    model, x, layer = small_model(), images(2), "backbone.layer2"
    a, g = (part.double().numpy() for part in cam.activations_and_gradient(model, layer, x, TARGETS[:2]))
    expected = np.zeros((2, *a.shape[2:]))
    for n in range(2):
        for k in range(a.shape[1]):
            share = a[n, k] / (a[n, k].sum() + 1e-7)
            expected[n] += (share * g[n, k]).sum() * a[n, k]
    found = cam_variants.xgrad_cam(model, layer, x, TARGETS[:2])[:, 0].numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_eigen_cam_is_the_first_principal_component():
    from sklearn.decomposition import PCA

    model, x = small_model(), images(5)
    table = model.stages(x).detach().flatten(2).transpose(1, 2).numpy()
    found = cam_variants.eigen_cam(model, model.pooled_layer, x, TARGETS).flatten(1).numpy()
    signed = cam_variants.eigen_cam_signed(model, model.pooled_layer, x, TARGETS).flatten(1).numpy()
    for n in range(5):
        expected = PCA(1, svd_solver="full").fit_transform(table[n])[:, 0]
        assert np.allclose(np.abs(found[n]), np.abs(expected), atol=1e-5)
        assert np.corrcoef(signed[n], table[n].mean(1))[0, 1] > 0
        assert np.allclose(np.abs(signed[n]), np.abs(found[n]), atol=1e-6)


def test_the_sign_of_eigen_cam_is_corrected():
    # Two channels fall where one, the weaker in variance, rises: the mean activation decides, not the component.
    ramp = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    maps = torch.cat([3 * ramp, 1 - ramp, 1 - ramp], 1)
    for activations, rises in ((maps, True), (maps.flip(-1, -2), False)):
        layer = nn.Sequential(nn.Identity())
        found = cam_variants.eigen_cam_signed(
            nn.Sequential(layer, nn.Flatten()), "0", activations, torch.tensor([0])
        ).flatten()
        assert (found[-1] > found[0]) == rises


def test_score_cam_in_chunks(monkeypatch):
    model, x = small_model(), images(3)
    whole = cam_variants.score_cam(model, "backbone.layer2", x, TARGETS[:3])
    monkeypatch.setattr(chunks, "FORWARD_PIXELS", 3 * 16 * 16 * 5)  # five of 32 channels at a time
    assert torch.allclose(cam_variants.score_cam(model, "backbone.layer2", x, TARGETS[:3]), whole, atol=1e-6)


def test_score_cam_looks_where_the_class_is():
    model = seeded(OneChannel)
    model.conv = nn.Conv2d(1, 2, 1, bias=False)
    model.conv.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    model.head = nn.Linear(2, 2, bias=False)
    model.head.weight.data = torch.tensor([[60.0, 0.0], [0.0, 0.0]])
    x = torch.zeros(1, 1, 4, 4)
    x[..., 0, 0], x[..., 3, 3] = 1, -1
    found = cam_variants.score_cam(model, "conv", x, torch.tensor([0]))
    # Channel 0 shows the bright corner, channel 1 the dark one: logits ±60/16, so the first has softmax weight .9994.
    weight = 1 / (1 + np.exp(-2 * 60 / 16))
    assert found[0, 0, 0, 0].item() == pytest.approx(2 * weight - 1, abs=1e-5)


def test_another_last_layer():
    model = build(ModelSpec(arch="cnn-tiny", num_classes=4, in_channels=3, image_size=16)).eval()
    for name in (
        "grad-cam",
        "grad-cam++",
        "layer-cam",
        "eigen-cam",
        "eigen-cam-numpy",
        "eigen-cam-signed",
        "score-cam",
        "hires-cam",
        "xgrad-cam",
    ):
        assert EXPLAINERS[name].explain(model, "backbone.stage.0", images(2), TARGETS[:2]).shape == (2, 1, 4, 4)
