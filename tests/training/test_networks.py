"""Networks of other libraries are trained by every method, from scratch or from given weights, and scored like ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.commands import here
from tests.data.makers import noise, png, write_tree
from tests.models.saved import MEAN, SIDE, STD, saved, vit
from tests.training.interrupting import Interrupt, Stop, assert_same_run, rows
from xeval.checkpoints.card import read_card
from xeval.checkpoints.load import load_model
from xeval.data import normalize, open_dataset
from xeval.errors import CheckpointError, UsageError
from xeval.explainers.cam import upsample
from xeval.reports import compare
from xeval.scoring.run import score
from xeval.training import initial
from xeval.training.batches import make_pool
from xeval.training.encoder import probe_encoder
from xeval.training.learner import fresh_learner
from xeval.training.loop import train
from xeval.training.methods import METHODS, explained_views
from xeval.training.recipe import Recipe, load_recipe, recipe_hash

LIMIT = 24
SMALL = ("epochs=1", "batch_size=8", "excon.supcon_share=0", "head.epochs=1", "projection.dim=8")
VIT, CONV = "timm:test_vit", "timm:test_convnext"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision transformer for digits, as transformers saves it."""
    return saved(tmp_path_factory.mktemp("hf") / "vit", channels=1)


def small(arch: str, method: str, size: int = SIDE, *overrides: str) -> Recipe:
    return load_recipe("digits", method, [f"arch={arch}", f"image_size={size}", *SMALL, *overrides])


def theirs(arch: str, size: int, classes: int = 10) -> nn.Module:
    """The network as its own library builds it."""
    if arch.startswith("hf:"):
        config = transformers.AutoConfig.from_pretrained(arch[3:])
        return transformers.ViTForImageClassification(config)
    options = {"img_size": size} if arch == VIT else {}
    return timm.create_model(arch[5:], num_classes=classes, in_chans=1, **options)  # type: ignore[no-any-return]


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found = model.eval()(images)
    return found if isinstance(found, Tensor) else found.logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(
    ("arch", "size", "layer"), [("hf", SIDE, "vit.layers.1.layernorm_before"), (VIT, 32, "blocks.5.norm1")]
)
def test_every_method_trains_tokens(
    method: str, arch: str, size: int, layer: str, folder: Path, tmp_path: Path
) -> None:
    """The weights of the run are the library's own: its network answers with them as ours does."""
    arch = f"hf:{folder}" if arch == "hf" else arch
    recipe = small(arch, method, size)
    run = train(recipe, seed=0, out=tmp_path, limit=LIMIT)
    card, tensors = read_card(run), load_file(run / "best.safetensors")
    assert (card.model.arch, card.layer) == (arch, layer)
    assert bool(rows(run)[0]["masked_share"]) == METHODS[method].explains
    before = fresh_learner(recipe, card.dataset, 0).model.state_dict()
    changed = [name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])]
    assert any("norm" in name for name in changed)
    assert any(name.startswith(("head.", "classifier.")) for name in changed)
    network, images = theirs(arch, size), torch.randn(2, 1, size, size)
    network.load_state_dict(tensors)
    assert torch.equal(answers(load_model(run, arch=arch).model, images), answers(network, images))


@pytest.mark.parametrize("method", ["ce", "exconb"])
def test_feature_maps_are_trained_too(method: str, tmp_path: Path) -> None:
    run = train(small(CONV, method, 64), seed=0, out=tmp_path, limit=LIMIT)
    assert read_card(run).layer == "stages"
    network, images = theirs(CONV, 64), torch.randn(2, 1, 64, 64)
    network.load_state_dict(load_file(run / "best.safetensors"))
    assert torch.equal(answers(load_model(run).model, images), answers(network, images))


def test_excon_masks_by_the_token_grid() -> None:
    """Masked views re-derived: Grad-CAM of 2×2 patches behind one class token, min-max, cut-off, by hand."""
    recipe = small(VIT, "excon", 32)
    split = open_dataset("digits", None, 32).split("train")
    learner = fresh_learner(recipe, split.info, 0)
    with torch.no_grad():
        learner.parts.head.weight.mul_(100)  # type: ignore[operator,union-attr]
    batch = make_pool(split, np.arange(6), torch.device("cpu")).take(torch.arange(6))
    masked, accepted = explained_views(learner, batch)
    model, images = learner.model.eval(), learner.standard(batch)
    kept: list[Tensor] = []
    handle = model.get_submodule("blocks.5.norm1").register_forward_hook(lambda _m, _i, made: kept.append(made))
    picked = model(images)[torch.arange(6), batch.labels].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(picked, kept[0])
    assert kept[0].shape == (6, 5, 64)
    weights = gradient[:, 1:].mean(1)  # over the four patches
    maps = torch.einsum("ntk,nk->nt", kept[0][:, 1:], weights).detach().reshape(6, 1, 2, 2)
    large = upsample(maps, (32, 32)).flatten(1)
    low, high = large.amin(1, keepdim=True), large.amax(1, keepdim=True)
    shown = ((large - low) / (high - low) > recipe.excon.cutoff).reshape(6, 1, 32, 32)
    assert torch.allclose(masked, images * shown, atol=1e-5)
    assert torch.equal(accepted, answers(model, masked).argmax(1) == batch.labels)


def test_projection_and_head_have_the_size_of_the_features() -> None:
    info = open_dataset("digits", None, 32).info
    learner = fresh_learner(small("timm:test_mambaout", "supcon", 32), info, 0)
    assert learner.parts.linear.in_features == 256  # not the 64 channels of its last map
    assert learner.projection[0].in_features == 256  # type: ignore[index]
    assert learner.embed(torch.randn(2, 1, 32, 32)).shape == (2, 8)


def test_an_interrupted_run_ends_bit_equal(folder: Path, tmp_path: Path) -> None:
    recipe = small(f"hf:{folder}", "excon", SIDE, "epochs=2")
    whole = train(recipe, seed=0, out=tmp_path / "whole", limit=LIMIT)
    with pytest.raises(Stop):
        train(recipe, seed=0, out=tmp_path / "halves", limit=LIMIT, progress=Interrupt(1))
    assert_same_run(whole, train(recipe, seed=0, out=tmp_path / "halves", limit=LIMIT))


def test_unit_features_are_what_the_head_sees_in_the_run(tmp_path: Path) -> None:
    run = train(small(VIT, "supcon", 32, "head.normalize=true"), seed=0, out=tmp_path, limit=LIMIT)
    network, images = theirs(VIT, 32), torch.randn(2, 1, 32, 32)
    network.load_state_dict(load_file(run / "best.safetensors"))
    with torch.no_grad():
        features = network.eval().forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
        wanted = network.head(F.normalize(features))  # type: ignore[operator]
    assert torch.allclose(answers(load_model(run).model, images), wanted, atol=1e-6)


# ---- given weights


def test_weights_of_a_file_or_a_run_begin_the_encoder(folder: Path, tmp_path: Path) -> None:
    """The encoder is the file's bit for bit; the head is the seed's."""
    info, arch = open_dataset("digits", None, SIDE).info, f"hf:{folder}"
    drawn = fresh_learner(small(arch, "ce"), info, 3).model.state_dict()
    given = {f"module.{name}": tensor for name, tensor in vit(1, classes=4).state_dict().items()}
    save_file(given, tmp_path / "four.safetensors")
    learner = fresh_learner(small(arch, "ce", SIDE, f"init={tmp_path / 'four.safetensors'}"), info, 3)
    for name, tensor in learner.model.state_dict().items():
        wanted = drawn[name] if name.startswith("classifier.") else given[f"module.{name}"]
        assert torch.equal(tensor, wanted), name
    first = train(small("resnet-small", "ce"), seed=0, out=tmp_path / "runs", limit=LIMIT)
    begun = fresh_learner(small("resnet-small", "ce", SIDE, f"init={first}"), info, 3)
    stored = load_file(first / "best.safetensors")
    ours = begun.model.state_dict()
    assert all(torch.equal(ours[name], stored[name]) for name in ours if name.startswith("backbone."))
    assert not torch.equal(ours["head.weight"], stored["head.weight"])


def test_weights_that_do_not_fit_are_refused_before_the_first_epoch(folder: Path, tmp_path: Path) -> None:
    info = open_dataset("digits", None, SIDE).info
    save_file(vit(3).state_dict(), tmp_path / "colour.safetensors")
    with pytest.raises(CheckpointError, match="does not fit hf:.*projection.weight has shape"):
        fresh_learner(small(f"hf:{folder}", "ce", SIDE, f"init={tmp_path / 'colour.safetensors'}"), info, 0)
    with pytest.raises(UsageError, match="do not fit images of 24 px: .*position_embeddings"):
        fresh_learner(small(f"hf:{folder}", "ce", 24, "init=pretrained"), open_dataset("digits", None, 24).info, 0)
    with pytest.raises(UsageError, match="no weights are published for resnet-small"):
        fresh_learner(small("resnet-small", "ce", SIDE, "init=pretrained", "normalization=network"), info, 0)
    with pytest.raises(UsageError, match="resnet-small has no configuration of its own"):
        train(small("resnet-small", "ce", SIDE, "init=pretrained"), seed=0, out=tmp_path, limit=LIMIT)


def test_published_weights_bring_their_constants_and_their_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = saved(tmp_path / "colours", classes=3)
    images = write_tree(
        tmp_path / "images",
        {
            f"{split}/{name}/{number}.png": png(noise(1, 20, number + 7 * len(name))[0])
            for split, count in (("train", 6), ("test", 3))
            for name in ("a", "bb", "ccc")
            for number in range(count)
        },
    )
    recipe = load_recipe(
        "digits",
        "ce",
        [f"arch=hf:{colours}", f"dataset='folder:{images}'", "init=pretrained", *SMALL, "optimizer.lr=1e-12"],
    )
    recipe = recipe.model_copy(update={"image_size": None})
    assert recipe.normalization == "network"
    run = train(recipe, seed=0, out=tmp_path / "runs")
    card = read_card(run)
    assert (card.dataset.mean, card.dataset.std, card.dataset.size) == (MEAN, STD, SIDE)
    stored, published = load_file(run / "last.safetensors"), vit(3, classes=3).state_dict()
    encoder = [name for name in published if not name.startswith("classifier.")]
    assert all(torch.allclose(stored[name], published[name], atol=1e-6) for name in encoder)
    words = ("score", str(run), "--arch", f"hf:{colours}", "--metrics", "complexity", "--explainers", "saliency")
    status, shown, message = here(capsys, *words)
    assert status == 0, message
    assert f"mean 0.5,0.4,0.3 std 0.2,0.3,0.4 (the configuration of hf:{colours})" in shown
    assert train(recipe, seed=0, out=tmp_path / "runs") == run  # the stored recipe is the same


def test_published_weights_of_timm_are_asked_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No download here: only that timm is asked, and that everything but the head is taken."""
    create, asked = timm.create_model, []

    def offline(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(77 if pretrained else 1)
            return create(name, pretrained=False, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", offline)
    learner = fresh_learner(small(VIT, "ce", 32, "init=pretrained"), open_dataset("digits", None, 32).info, 0)
    assert asked == [("test_vit", False), ("test_vit", True)]
    published = offline("test_vit", pretrained=True, num_classes=10, in_chans=1, img_size=32).state_dict()
    ours = learner.model.state_dict()
    assert all(
        torch.equal(ours[name], published[name]) == (not name.startswith("head.")) or "bias" in name for name in ours
    )
    assert learner.begun_with == initial.tensors_sha256(
        {name: tensor for name, tensor in published.items() if not name.startswith("head.")}
    )


def test_recipes_without_the_new_keys_keep_their_hash() -> None:
    recipe = small("resnet-small", "ce")
    settings = {
        key: value
        for key, value in recipe.model_dump(mode="json").items()
        if key not in ("name", "description", "init", "normalization", "precision")
    }
    from xeval.runtime.files import digest

    assert recipe_hash(recipe) == digest(settings)
    assert recipe_hash(recipe) != recipe_hash(small("resnet-small", "ce", SIDE, "init=a.pt"))


# ---- afterwards


def test_two_methods_of_a_transformer_are_compared(tmp_path: Path, no_figures: None) -> None:
    for method in ("ce", "excon"):
        for seed in range(5):
            run = train(small(VIT, method, 32), seed=seed, out=tmp_path / "runs", limit=LIMIT)
            layer = read_card(run).layer
            score(run, limit=40, metrics=("drop",), explainers=("grad-cam", "random"), layer=layer)
    compare.compare([tmp_path / "runs"], tmp_path / "report")
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    text = json.dumps(found)
    assert VIT in text
    assert all(f"digits-{method}-s{seed}" in text for method in ("ce", "excon") for seed in range(5))
    (one,) = (c for c in found["sections"][0]["contrasts"] if c["column"] == "drop.mag@0.45")
    assert one["interval"][0] < one["difference"] < one["interval"][1]
    assert 0 <= one["p"] <= 1
    assert one["n"] == 40


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_a_head_is_fitted_on_the_encoder_of_another_library(head: Any, tmp_path: Path) -> None:
    """The accuracy in the card is that of the network that scoring loads, on the held-out images."""
    torch.manual_seed(0)
    network = theirs(VIT, SIDE, classes=4)
    save_file(network.state_dict(), tmp_path / "encoder.safetensors")
    run = probe_encoder(
        tmp_path / "encoder.safetensors", "digits", out=tmp_path / "runs", arch=VIT, head=head, method=head
    )
    card, tensors = read_card(run), load_file(run / "best.safetensors")
    assert card.model.arch == VIT
    assert all(torch.equal(tensors[name], one) for name, one in network.state_dict().items() if "head" not in name)
    split = open_dataset("digits").split("train")
    from xeval.data import holdout

    held = holdout(split.labels, 0.2, 0)[1]
    predicted = answers(load_model(run).model, normalize(split.read(held), split.info)).argmax(1).numpy()
    assert card.selection.best_accuracy == pytest.approx((predicted == split.labels[held]).mean())
    if head == "knn":  # a run names its network itself
        again = probe_encoder(run, "digits", out=tmp_path / "more", method="again", head="centroid")
        assert read_card(again).model.arch == VIT
