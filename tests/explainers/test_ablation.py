import copy

import pytest
import torch
from torch import nn

from tests.explainers.networks import OneChannel, seeded
from tests.models.test_layers import Tokens, of_class, of_patches
from tests.scenes import images, small_model
from xeval.explainers import chunks
from xeval.explainers.ablation import ablation_cam
from xeval.models import Classifier

TARGETS = torch.tensor([0, 1, 2, 3, 1])


def library(model, layer, x, targets, *, zero):
    """pytorch-grad-cam's map before it is clipped; with ``zero`` it sets channels to 0 as the paper does."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Zero(AblationLayer):
        def __call__(self, _x):
            for row, channel in enumerate(self.indices[: len(self.activations)]):
                self.activations[row, channel] = 0
            return self.activations

    model = copy.deepcopy(model)
    module, wanted = model.get_submodule(layer), [ClassifierOutputTarget(int(t)) for t in targets]
    with AblationCAM(model, [module], ablation_layer=Zero() if zero else AblationLayer()) as method:
        method(x, targets=wanted)
        activations = method.activations.detach()
        raw = method.get_cam_image(x, module, wanted, activations.numpy(), None, False)
    return torch.from_numpy(raw).unsqueeze(1)


@pytest.mark.parametrize(("layer", "zero"), [("backbone.layer3", False), ("backbone.layer2.0.conv2", True)])
def test_equals_pytorch_grad_cam_up_to_the_sign_of_the_logit(layer, zero):
    """As it is behind a ReLU, where the smallest activation is 0; elsewhere with channels that become 0, too."""
    model, x = small_model(), images(3)
    with torch.no_grad():
        logits = model(x).gather(1, TARGETS[:3, None])
    assert logits.min() < 0 < logits.max()
    raw = library(model, layer, x, TARGETS[:3], zero=zero) * logits.sign()[:, :, None, None]
    found = ablation_cam(model, layer, x, TARGETS[:3])
    assert torch.allclose(found, raw, atol=1e-5 * float(raw.abs().max()))


def test_a_linear_head_says_what_a_channel_is_worth():
    """Without channel k the logit falls by the head's weight times the channel's mean."""
    model, x = small_model(), images(3)
    assert isinstance(model, Classifier)
    maps = model.stages(x).detach()
    logits = model(x).gather(1, TARGETS[:3, None]).detach()
    weights = model.linear.weight.detach()[TARGETS[:3]] * maps.mean((-2, -1)) / logits.abs()
    found = ablation_cam(model, "backbone.layer3", x, TARGETS[:3])
    assert torch.allclose(found[:, 0], (weights[:, :, None, None] * maps).sum(1), atol=1e-5)


def test_one_channel_by_hand():
    """All of the logit is lost; a negative logit rises, which counts against the channel."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    assert torch.allclose(ablation_cam(OneChannel(), "conv", x, torch.tensor([0])), x)
    assert torch.allclose(ablation_cam(OneChannel(), "conv", x, torch.tensor([1])), -x)


@pytest.mark.parametrize("read", [of_class, of_patches])
def test_tokens_lose_a_channel_at_the_patches_alone(read):
    """In a loop over images and channels, with the network written out."""
    model, x = seeded(lambda: Tokens(read)), images(2)
    with torch.no_grad():
        tokens = torch.cat([model.tokens.expand(2, -1, -1), model.embed(x).flatten(2).transpose(1, 2)], 1)
        given = model.blocks[1].norm(model.blocks[0](tokens))
        before = model.blocks[0](tokens)
        for n in range(2):

            def logit(given, n=n):
                tokens = before[n : n + 1] + model.blocks[1].attention(given)[0]
                return model.head(read(model.norm(tokens)))[0, TARGETS[n]]

            whole, wanted = logit(given[n : n + 1]), torch.zeros(4, 4)
            for k in range(given.shape[2]):
                without = given[n : n + 1].clone()
                without[:, 2:, k] = 0
                wanted += (whole - logit(without)) / whole.abs() * given[n, 2:, k].reshape(4, 4)
            found = ablation_cam(model, "blocks.1.norm", x[n : n + 1], TARGETS[n : n + 1])
            assert torch.allclose(found[0, 0], wanted, atol=1e-5 * float(wanted.abs().max()))


def test_in_chunks(monkeypatch):
    model, x = small_model(), images(3)
    whole = ablation_cam(model, "backbone.layer2", x, TARGETS[:3])
    monkeypatch.setattr(chunks, "FORWARD_PIXELS", 3 * 16 * 16 * 5)  # five channels at a time
    assert torch.allclose(ablation_cam(model, "backbone.layer2", x, TARGETS[:3]), whole, atol=1e-5)


def test_hooks_go_when_a_pass_fails():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.passes = nn.Conv2d(3, 2, 3), 0

        def forward(self, x):
            self.passes += 1
            if self.passes > 2:
                raise RuntimeError("broken")
            return self.conv(x).mean((-2, -1))

    model = Fails().eval()
    with pytest.raises(RuntimeError, match="broken"):
        ablation_cam(model, "conv", images(2), torch.tensor([0, 1]))
    assert not any(module._forward_hooks for module in model.modules())
