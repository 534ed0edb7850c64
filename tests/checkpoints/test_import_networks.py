"""Networks of timm and torchvision come in by their shapes, by the name in the file, or by the user's word."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from safetensors.torch import save_file as save_safetensors
from torch import nn

from tests.commands import here
from tests.data.makers import noise, png, write_tree
from tests.faults.foreign import BACKBONE, HEAD, OURS, Told, brought, same_bits
from tests.models.test_designs import with_statistics
from tests.runs import make_run
from xeval.checkpoints import libraries, sandbox
from xeval.checkpoints.card import read_card
from xeval.checkpoints.convert import import_checkpoint
from xeval.checkpoints.load import load_model
from xeval.errors import CheckpointError, UsageError
from xeval.scoring.run import score

GRAY: dict[str, Any] = {"num_classes": 10, "in_chans": 1}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files apart without the cost of a child process."""
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)


def timm_file(model: nn.Module, arch: str, **more: Any) -> dict[str, Any]:
    """What timm's training script writes."""
    args = Namespace(model=arch, seed=42, lr=0.1, mean=None)
    return {"epoch": 3, "arch": arch, "state_dict": model.state_dict(), "args": args, "version": 2, **more}


@pytest.mark.parametrize("arch", ["resnet26d", "resnet14t"])
def test_timms_residual_networks_need_no_timm(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = with_statistics(timm.create_model(arch, **GRAY))
    content = timm_file(theirs, arch, state_dict_ema=timm.create_model(arch, **GRAY).state_dict())
    monkeypatch.setitem(sys.modules, "timm", None)
    run, told = brought(tmp_path / "c.pth.tar", content, tmp_path / "run")
    assert read_card(run).model.arch == arch
    assert read_card(run).seed == 42
    assert "the file also holds averaged weights (state_dict_ema); --ema takes them" in told
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(run).model.eval()(x), theirs(x))


def test_a_residual_network_without_a_name_is_spelled_out_and_scored(tmp_path: Path) -> None:
    theirs = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=2, width_per_group=8
    )
    theirs.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
    run, _ = brought(tmp_path / "c.pth", {"net": theirs.state_dict(), "seed": 1}, tmp_path / "run")
    assert read_card(run).model.arch == "resnet:bottleneck,1-1-1-1,64,16x2,64,cifar"
    assert (score(run, limit=4, metrics=("drop",), explainers=("grad-cam",)) / "scores.json").is_file()


# ---- other architectures


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=16, **GRAY).eval()  # type: ignore[no-any-return]


def same_answers(run: Path, theirs: nn.Module) -> bool:
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        return torch.equal(load_model(run).model.eval()(x), theirs(x))


def test_the_architecture_that_timms_script_names_is_followed(tmp_path: Path) -> None:
    theirs = vit()
    run, told = brought(tmp_path / "c.pth", timm_file(theirs, "vit_tiny_patch16_224.augreg_in21k"), tmp_path / "run")
    assert "recognised: timm:vit_tiny_patch16_224" in told
    assert read_card(run).model.arch == "timm:vit_tiny_patch16_224"
    assert same_bits(load_file(run / "best.safetensors"), theirs.state_dict())
    assert same_answers(run, theirs)
    assert (score(run, limit=4, metrics=("drop",), explainers=("saliency",)) / "scores.json").is_file()


def test_a_name_that_the_tensors_contradict_is_not_followed(tmp_path: Path) -> None:
    content = {"arch": "vit_tiny_patch16_224", "state_dict": {**BACKBONE, **HEAD}}
    run, told = brought(tmp_path / "c.pth", content, tmp_path / "run")
    assert read_card(run).model.arch == "resnet-small"
    assert "the file names vit_tiny_patch16_224, its tensors are those of resnet-small" in told


def test_the_users_word_comes_first(tmp_path: Path) -> None:
    theirs = vit()
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    content = {"state_dict": {**state, "criterion.weight": torch.ones(10)}}
    run, told = brought(tmp_path / "c.pth", content, tmp_path / "run", arch="timm:vit_tiny_patch16_224")
    assert "dropped state_dict.criterion.weight" in told
    assert same_answers(run, theirs)
    with pytest.raises(CheckpointError, match="does not fit timm:vit_small_patch16_224: .*cls_token has shape"):
        brought(tmp_path / "c.pth", content, tmp_path / "no", arch="timm:vit_small_patch16_224")
    with pytest.raises(UsageError, match="timm has no network 'hf-hub:a/b'"):
        brought(tmp_path / "c.pth", content, tmp_path / "no", arch="timm:hf-hub:a/b")
    with pytest.raises(CheckpointError, match=r"holds no network that is known .found: state_dict"):
        brought(tmp_path / "c.pth", content, tmp_path / "no", arch="resnet18")
    with pytest.raises(UsageError, match="take 3 channels"):
        brought(tmp_path / "c.pth", content, tmp_path / "no", arch="torchvision:vit_b_16")


def test_the_networks_of_timm_are_searched_for_one_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a few here; the whole list differs in time only."""
    names = ["vit_tiny_patch16_224", "vit_small_patch16_224", "efficientnet_b0", "seresnet18", "resnet18"]
    monkeypatch.setattr(timm, "list_models", lambda *_: names)
    run, told = brought(tmp_path / "vit.pth", {"model": vit().state_dict()}, tmp_path / "vit")
    assert read_card(run).model.arch == "timm:vit_tiny_patch16_224"
    assert any("comparing with 2 networks of timm" in line for line in told)
    theirs = with_statistics(timm.create_model("legacy_seresnet18", **GRAY))
    names.append("legacy_seresnet18")
    old = {name: tensor for name, tensor in theirs.state_dict().items() if "num_batches" not in name}
    run, told = brought(tmp_path / "se.pth", {"model": old}, tmp_path / "se")
    assert read_card(run).model.arch == "timm:legacy_seresnet18"
    assert any("of num_batches_tracked with 0" in line for line in told)
    names.append("deit_tiny_patch16_224")
    with pytest.raises(
        CheckpointError, match="several networks: timm:vit_tiny.*, timm:deit_tiny.* — name one with --arch"
    ):
        brought(tmp_path / "vit.pth", {"model": vit().state_dict()}, tmp_path / "no")


def test_without_timm_the_message_says_so_and_never_sends_in_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``score`` may send to ``import``; what ``import`` then says leads back to neither."""
    squeezed = timm.create_model("seresnet18", **GRAY).state_dict()
    cases = {"se": squeezed, "vit": vit().state_dict(), "odd": {"a.weight": torch.ones(2, 3), "b": torch.ones(1)}}
    cases |= {"part": {n: t for n, t in {**BACKBONE, **HEAD}.items() if "layer3.0.bn2" not in n}}
    cases |= {"more": {**BACKBONE, **HEAD, "layer1.0.extra.weight": torch.ones(1)}}
    monkeypatch.setitem(sys.modules, "timm", None)
    for name, state in cases.items():
        path = tmp_path / f"{name}.pth"
        torch.save(state, path)
        _, _, first = here(capsys, "score", str(path), "--dataset", "digits")
        assert first.endswith(f"run: xeval import {path}")
        status, _, second = here(capsys, "import", str(path), "--dataset", "digits", "--out", str(tmp_path / "run"))
        assert status == 4
        assert "xeval import" not in second
        assert "xeval score" not in second
    with pytest.raises(CheckpointError, match=r"resnet18 but for extra layer1.0.se.* — .* of timm need: pip install"):
        brought(tmp_path / "se.pth", squeezed, tmp_path / "run")


def test_a_missing_package_is_named_only_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "list_models", lambda *_: [])
    more = {**BACKBONE, **HEAD, "layer1.0.extra.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match="but for extra") as refused:
        brought(tmp_path / "more.pth", more, tmp_path / "run")
    assert "timm" not in str(refused.value)


def test_a_name_of_timm_cannot_be_judged_without_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """resnetblur50 has the tensors of resnet50 and computes something else."""
    content = {"arch": "resnetblur50", "state_dict": {**BACKBONE, **HEAD}}
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError, match="names the network resnetblur50") as refused:
        brought(tmp_path / "c.pth", content, tmp_path / "no")
    assert refused.value.remedy.endswith("[timm]', or name the network with --arch resnet-small")
    run, _ = brought(tmp_path / "c.pth", content, tmp_path / "run", arch="resnet-small")
    assert read_card(run).model.arch == "resnet-small"


def test_torchvisions_other_networks_come_in_by_name(tmp_path: Path) -> None:
    theirs = torchvision.models.squeezenet1_1(num_classes=2).eval()
    write_tree(tmp_path / "images", {f"{name}/a.png": png(noise(1, 64, 0)[0]) for name in ("cat", "dog")})
    torch.save(theirs.state_dict(), tmp_path / "squeeze.pth")
    folder = f"folder:{tmp_path / 'images'}"
    run = import_checkpoint(
        tmp_path / "squeeze.pth",
        tmp_path / "run",
        folder,
        Told(),
        arch="torchvision:squeezenet1_1",
        normalize="imagenet",
    )
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(run).model.eval()(x), theirs(x))


def test_a_stored_name_is_followed_only_to_a_library(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run")
    for arch in ("timm:hf-hub:a/b", "os:system", "builtins:eval", "resnet:basic,9999,64,64x1,64"):
        text = (run / "run.json").read_text().replace('"cnn-tiny"', f'"{arch}"')
        (tmp_path / "run" / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match="unknown model|timm has no network|is stored as"):
            load_model(run)
        (tmp_path / "run" / "run.json").write_text(text.replace(f'"{arch}"', '"cnn-tiny"'))


# ---- files under other suffixes, wrappers


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights", "weights.ckpt"])
def test_a_safetensors_file_is_known_by_its_content(name: str, tmp_path: Path) -> None:
    save_safetensors({**BACKBONE, **HEAD}, tmp_path / name)
    run = import_checkpoint(tmp_path / name, tmp_path / "run", "digits", Told())
    assert same_bits(load_file(run / "best.safetensors"), OURS)
    from tests.faults.weights import load

    assert same_bits(load(tmp_path / name).model.state_dict(), OURS)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_compiled_networks_are_scored_without_import(prefix: str, tmp_path: Path) -> None:
    from tests.faults.weights import load

    torch.save({f"{prefix}{name}": tensor for name, tensor in OURS.items()}, tmp_path / "c.pt")
    assert same_bits(load(tmp_path / "c.pt").model.state_dict(), OURS)


# ---- compare


def test_compare_asks_for_an_unknown_seed_and_takes_it_from_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick: dict[str, Any] = {"limit": 6, "metrics": ("drop",), "explainers": ("grad-cam", "random")}
    for name, seed in (("a", None), ("b", 1)):
        scale = 1.0 if seed is None else 1.1
        state = {n: t * scale if t.is_floating_point() else t for n, t in {**BACKBONE, **HEAD}.items()}
        run, _ = brought(tmp_path / "c.pth", state, tmp_path / "runs" / name, method="対照", seed=seed)
        score(run, **quick)
    status, _, message = here(capsys, "compare", str(tmp_path / "runs"))
    assert status == 3
    assert (
        "a: the seed of the training is not known — import with --seed, or score again with --training-seed" in message
    )
    score(tmp_path / "runs" / "a", **quick, training_seed=0)
    status, shown, _ = here(capsys, "compare", str(tmp_path / "runs"))
    assert status == 0
    assert "対照" in shown
    report = tmp_path / "runs" / "report"
    assert "対照" in (report / "report.html").read_text(encoding="utf-8")
    assert all(path.name.isascii() for path in report.rglob("*"))


def test_the_search_says_nothing_where_nothing_can_fit(tmp_path: Path) -> None:
    told = Told()
    foreign = sandbox.Foreign({"": {"a": torch.ones(1)}}, {}, (), (), (), ())
    from xeval.checkpoints.places import Choice
    from xeval.models import ModelSpec

    spec = ModelSpec(arch="", num_classes=10, in_channels=1, image_size=16)
    assert libraries.search(tmp_path, foreign, spec, Choice(), told) is None
    assert told.lines == []
