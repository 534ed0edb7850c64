"""Any nn.Module with a loader: torchvision networks, odd names, transformers."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import xeval
from tests.runs import make_run
from xeval.data import normalize, open_dataset
from xeval.errors import DataError, UsageError
from xeval.scoring.module import Normalization, adapt

PLAIN = Normalization((0, 0, 0), (1, 1, 1))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def loader(n=12, side=64, classes=5, batch=5, normalization=PLAIN):
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.rand(n, 3, side, side, generator=generator), torch.arange(n) % classes
    return DataLoader(TensorDataset(normalized(pixels, normalization), labels), batch_size=batch)


def normalized(pixels, constants):
    mean, std = (torch.tensor(part).float().reshape(3, 1, 1) for part in (constants.mean, constants.std))
    return (pixels - mean) / std


def seeded(build, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**options)


def test_a_module_and_its_own_run_score_the_same(tmp_path):
    """The same network and images, once as a run directory and once in memory."""
    run, model = make_run(tmp_path / "digits-excon-s0")
    split = open_dataset("digits").split("test")
    chosen = list(range(24))
    batches = [(normalize(split.read(chosen), split.info), torch.as_tensor(split.labels[chosen]))]
    info = split.info
    given = xeval.score(
        model, batches, normalization=Normalization(info.mean, info.std), metrics=("drop", "complexity")
    )
    summary = given.attrs["summary"]
    assert summary["dataset"]["n"] == 24
    assert summary["explained"]["layer"] == "backbone.stage"
    own = xeval.score(run, metrics=("drop", "complexity"), out=tmp_path / "scores")
    each = xeval.results(tmp_path / "scores")
    first = each[each.explainer == "grad-cam"].head(24)
    of_module = given[given.explainer == "grad-cam"].set_index("column")["mean"]
    for column in ("complexity.entropy", "complexity.gini"):  # no draws: those are keyed by the images' ids
        assert first[column].mean() == pytest.approx(of_module[column], abs=1e-5)
    assert len(own) == len(given)


def test_torchvision_resnet_with_the_imagenet_stem():
    model = seeded(torchvision.models.resnet18, num_classes=5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frame = xeval.score(
        model,
        loader(normalization=IMAGENET),
        normalization=IMAGENET,
        metrics=("drop", "complexity", "infidelity"),
        batch_size=32,
    )
    assert frame.attrs["summary"]["explained"] == {"layer": "layer4", "cam_size": [2, 2], "target": "pred"}
    assert frame.attrs["summary"]["checkpoint"]["arch"] == "ResNet"
    assert frame["n"].gt(0).mean() > 0.9
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_torchvision_resnet_at_224_pixels_by_hand(tmp_path):
    """Grad-CAM of a 7×7 map and the drop when 45 % of 224² pixels are kept, written out with torch alone."""
    model = seeded(torchvision.models.resnet18, num_classes=5).eval()
    model.fc.weight.data *= 20  # a more confident network
    blobs = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(3)) * 2
    images, labels = nn.functional.interpolate(blobs, (224, 224), mode="bilinear"), torch.tensor([0, 1])
    frame = xeval.score(
        model,
        [(images, labels)],
        normalization=Normalization((0.5,) * 3, (0.05,) * 3),  # pixels within 0.5 ± 0.35
        metrics=("drop",),
        explainers=("grad-cam", "random"),
        out=tmp_path,
    )
    assert frame.attrs["summary"]["explained"]["cam_size"] == [7, 7]
    each = xeval.results(tmp_path)
    each = each[each.explainer == "grad-cam"]
    assert list(each.label) == labels.tolist()
    model.double()
    for x, found in zip(images.double(), each["drop.mag@0.45"], strict=True):
        stage: list[torch.Tensor] = []
        hook = model.layer4.register_forward_hook(lambda *parts, kept=stage: kept.append(parts[2]))
        logits = model(x[None])[0]
        hook.remove()
        (gradient,) = torch.autograd.grad(logits.max(), stage[0])
        cam = (gradient.mean((2, 3), keepdim=True) * stage[0]).sum(1, keepdim=True).detach()
        order = nn.functional.interpolate(cam, (224, 224), mode="bilinear").flatten().argsort(descending=True)
        keep = torch.zeros(224 * 224, dtype=torch.bool)
        keep[order[: int(0.45 * 224 * 224)]] = True
        with torch.no_grad():
            p0, p1 = (model(v[None]).softmax(1)[0, logits.argmax()] for v in (x, x * keep.reshape(224, 224)))
        drop = float((p0 - p1) / p0)
        assert drop > 1e-5
        assert found == pytest.approx(drop, rel=1e-2)  # ties at the flat border may be cut differently


def test_a_last_convolution_that_is_not_called_layer4():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(
                nn.Conv2d(3, 6, 3, 2), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2), nn.ReLU(inplace=True)
            )
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.trunk(x).amax((-2, -1)))

    frame = xeval.score(seeded(Odd), loader(side=16), metrics=("drop", "ssim"), classes=list("abcde"))
    assert frame.attrs["summary"]["explained"]["layer"] == "trunk"
    assert frame.attrs["summary"]["dataset"]["classes"] == list("abcde")


def transformer():
    options = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = seeded(torchvision.models.VisionTransformer, num_classes=5, **options)
    nn.init.normal_(model.heads.head.weight, generator=torch.Generator().manual_seed(0))  # it starts at zero
    return model


def test_a_vision_transformer_is_explained_by_gradients_and_through_its_tokens():
    names = ("saliency", "grad-cam")
    frame = xeval.score(transformer(), loader(side=32), explainers=names, metrics=("drop", "complexity"))
    assert frame[frame.explainer == "saliency"]["mean"].notna().all()
    assert frame[frame.explainer == "grad-cam"]["n"].gt(0).all()
    assert frame.attrs["summary"]["explained"]["layer"] == "encoder.layers.encoder_layer_1.ln_1"


def test_what_does_not_fit_is_said():
    model = seeded(torchvision.models.resnet18, num_classes=5)
    with pytest.raises(UsageError, match="needs data"):
        xeval.score(model)
    with pytest.raises(DataError, match="5 outputs for 3 classes"):
        xeval.score(model, loader(), classes=list("abc"))
    with pytest.raises(DataError, match="yields no batch"):
        xeval.score(model, [])
    with pytest.raises(DataError, match="images have shape"):
        xeval.score(model, [(torch.zeros(2, 8, 9, 3), torch.zeros(2))])
    with pytest.raises(UsageError, match="segmentation"):
        xeval.score(nn.Sequential(nn.Conv2d(3, 4, 3)), loader())


def test_constants_may_be_a_pair():
    """With numbers or tensors, as transforms hold them; anything else is told in one sentence."""
    model, data = seeded(torchvision.models.resnet18, num_classes=5).eval(), loader(normalization=IMAGENET)
    for pair in ((IMAGENET.mean, IMAGENET.std), [torch.tensor(IMAGENET.mean, dtype=torch.float64), list(IMAGENET.std)]):
        assert adapt(model, data, normalization=pair)[1] == adapt(model, data, normalization=IMAGENET)[1]


@pytest.mark.parametrize("given", [(0.5, 0.25), "imagenet", ((0.5,), (0.2,), (0.1,)), 3, (("a",), ("b",))])
def test_constants_that_are_no_pair_are_refused(given):
    with pytest.raises(UsageError, match=r"normalization=.* is no mean and deviation — give \(mean, std\)"):
        xeval.score(nn.Flatten(), loader(), normalization=given)
