import pytest
import torch
import torchvision
from torch import nn

from tests.scenes import images, small_model
from xeval.errors import UsageError, XevalError
from xeval.models import MODELS, Classifier, ModelSpec, build, frozen_eval, last_conv_stage


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_imagenet_networks_equal_torchvision(name):
    """The same state dict gives the same logits: names, shapes and the forward pass agree."""
    theirs = getattr(torchvision.models, name)(num_classes=7).eval()
    ours = build(ModelSpec(arch=name, num_classes=7, image_size=64)).eval()
    state = {
        k.replace("fc.", "head.") if k.startswith("fc.") else f"backbone.{k}": v for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    x = images(2, side=64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_builds_and_keeps_a_map(name):
    with torch.device("meta"):
        model = build(ModelSpec(arch=name, num_classes=5, in_channels=1, image_size=32))
        x = torch.zeros(2, 1, 32, 32)
    features = model.stages(x)
    assert features.shape[:2] == (2, model.backbone.dim)
    assert model(x).shape == (2, 5)
    expected = {"cnn-tiny": 8, "resnet-small": 8}.get(name, 4 if name.endswith("-cifar") else 1)
    assert features.shape[-1] == expected
    assert isinstance(model.get_submodule(model.pooled_layer), nn.Module)


def test_no_module_runs_twice():
    model, calls = small_model(), {}
    for name, module in model.named_modules():
        if not list(module.children()) and not isinstance(module, nn.Sequential):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    model(images(1))
    assert set(calls.values()) == {1}


def test_last_conv_stage_of_foreign_networks():
    resnet = torchvision.models.resnet18(num_classes=3).eval()
    assert last_conv_stage(resnet, torch.zeros(1, 3, 64, 64)) == "layer4"

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
            self.squash = nn.AdaptiveAvgPool2d(1)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.squash(self.trunk(x)).flatten(1))

    assert last_conv_stage(Odd(), torch.zeros(1, 3, 16, 16)) == "trunk"
    assert last_conv_stage(small_model(), torch.zeros(1, 3, 16, 16)) == "backbone.layer3"
    with pytest.raises(UsageError, match="no spatial feature map"):
        last_conv_stage(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(1, 3, 4, 4))


def test_frozen_eval_restores_modes_and_guards_buffers():
    model = small_model().train()
    model.backbone.bn1.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen_eval(model):
        assert not any(m.training for m in model.modules())
        model(images(4))
    assert model.training
    assert not model.backbone.bn1.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())

    def trains_while_frozen():
        with frozen_eval(model):
            model.train()
            model(images(4))

    with pytest.raises(XevalError, match="changed the model's buffer"):
        trains_while_frozen()
    assert model.training


def test_normalised_head_sees_unit_features():
    model = Classifier(MODELS["cnn-tiny"](3), 2, normalize_features=True)
    x = images(3)
    unit = model.features(x) / model.features(x).norm(dim=1, keepdim=True)
    assert torch.allclose(model(x), unit @ model.head.weight.T + model.head.bias, atol=1e-6)


def test_spec_refuses_unknown_keys():
    with pytest.raises(ValueError, match="extra"):
        ModelSpec(arch="resnet18", num_classes=3, image_size=32, depth=4)
