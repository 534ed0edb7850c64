"""Rows C5 and C6: checkpoints of other projects, made exactly in their layouts, become runs bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_safetensors
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18

from tests.commands import ROOT, here, xeval
from tests.faults import hostile
from tests.faults.foreign import (
    BACKBONE,
    ENCODER,
    HEAD,
    INFO,
    OURS,
    PROJECTION,
    WHOLE,
    Told,
    bare_supcontrast,
    brought,
    cifar_style,
    excon,
    moco,
    momentum,
    network,
    options,
    same_bits,
    supce,
    supcontrast,
)
from xeval.checkpoints import sandbox as quarantine
from xeval.checkpoints.card import read_card
from xeval.checkpoints.convert import import_checkpoint
from xeval.checkpoints.layouts import LAYOUTS
from xeval.checkpoints.load import load_encoder, load_model
from xeval.errors import BusyError, CheckpointError, DataError, UsageError, XevalError
from xeval.runtime.files import read_json
from xeval.runtime.locks import locked
from xeval.runtime.progress import Silent
from xeval.scoring.run import score


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files apart without the cost of a child, and so without its limits; marked tests do have the child."""
    if request.node.get_closest_marker("fault") is None:
        monkeypatch.setattr(quarantine, "_limit_memory", lambda _: None)
        monkeypatch.setattr(quarantine, "_run_child", quarantine.main)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_network_becomes_a_run(kind: str, tmp_path: Path) -> None:
    make, layout = WHOLE[kind]
    run, told = brought(tmp_path / "ckpt.pth", make(), tmp_path / "run")
    assert f"recognised: {layout}" in told
    assert same_bits(load_file(run / "best.safetensors"), OURS)
    assert "class order taken from digits" in told
    assert any("images are normalised with" in line and "published for digits" in line for line in told)
    loaded = load_model(run)
    assert loaded.spec is not None
    assert loaded.spec.arch == "resnet-small"
    assert read_card(run).selection.best_accuracy is None


def test_torchvisions_own_network(tmp_path: Path) -> None:
    """Made by torchvision itself: RGB, the ImageNet stem; the data set says how many channels there are."""
    theirs = resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    run, _ = brought(tmp_path / "tv.pth", theirs.state_dict(), tmp_path / "run")
    loaded = load_model(run)
    assert loaded.spec is not None
    assert loaded.spec.arch == "resnet18"
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.model.eval()(x), theirs.eval()(x), atol=1e-5)


def test_the_record_of_an_excon_file(tmp_path: Path) -> None:
    content = excon(method="ExCon/β", seed="2", hook=transforms.RandomGrayscale())
    run, told = brought(tmp_path / "excon.pth", content, tmp_path / "mine")
    card = read_card(run)
    assert (card.name, card.seed, card.selection.best_epoch, card.recipe_name) == ("mine", 2, 200, "import")
    assert card.method == "ExCon/β"
    fields = card.recipe["fields"]
    assert fields["opt.learning_rate"] == "0.5"
    assert fields["opt.lr_decay_epochs"] == "[700, 800]"
    assert "opt.augment" not in fields
    dropped = ["c_criterion", "e_optimizer", *sorted(f"encoder.{name}" for name in PROJECTION)]
    assert sorted(card.recipe["dropped"]) == sorted(dropped)
    assert all(f"dropped {name}" in told for name in dropped)
    assert "stripped module." in told
    assert "ignored object argparse.Namespace" in told
    assert "ignored object torchvision.transforms.transforms.RandomGrayscale" in told


def test_seeds_of_one_recipe_have_one_hash(tmp_path: Path) -> None:
    hashes = []
    for number, (trial, rate) in enumerate([("0", 1e-4), ("1", 1e-4), ("1", 1e-3)]):
        content = supce()
        content["opt"] = options(trial=trial, save_folder=f"./save/{trial}", weight_decay=rate)
        card = read_card(brought(tmp_path / "c.pth", content, tmp_path / str(number))[0])
        assert card.seed == int(trial)
        hashes.append(card.recipe_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_other_types_are_kept_and_cast_when_loaded(tmp_path: Path) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in {**BACKBONE, **HEAD}.items()}
    run, _ = brought(tmp_path / "half.pth", half, tmp_path / "run")
    assert load_file(run / "best.safetensors")["head.weight"].dtype == torch.float16
    assert "cast weights: float16 to float32" in load_model(run).notes


# ---- encoders


@pytest.mark.parametrize(
    ("make", "layout"), [(supcontrast, "SupContrast"), (moco, "MoCo"), (bare_supcontrast, "state dict")]
)
def test_an_encoder_waits_for_its_head(make: Callable[[], Any], layout: str, tmp_path: Path) -> None:
    target, told = brought(tmp_path / "enc.pth", make(), tmp_path / "out")
    assert target == tmp_path / "out" / "encoder.safetensors"
    assert f"recognised: {layout}" in told
    assert told[-1] == f"no linear head; run: xeval probe {target} --dataset digits"
    assert same_bits(load_file(target), ENCODER)
    assert sorted(path.name for path in target.parent.iterdir()) == ["encoder.safetensors"]
    model, _ = load_encoder(target, INFO)
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], BACKBONE["conv1.weight"])


def test_a_classifier_of_its_own_joins_its_encoder(tmp_path: Path) -> None:
    linear = {f"module.{name}": tensor for name, tensor in HEAD.items()}
    torch.save({"opt": options(), "classifier": linear, "optimizer": momentum(), "epoch": 100}, tmp_path / "linear.pth")
    run, told = brought(tmp_path / "enc.pth", supcontrast(), tmp_path / "run", classifier=tmp_path / "linear.pth")
    assert "recognised: SupContrast" in told
    assert same_bits(load_file(run / "best.safetensors"), OURS)
    card = read_card(run)
    assert (card.method, card.seed) == ("SupCon", 3)
    with pytest.raises(CheckpointError, match="linear classifier without its encoder.*--classifier"):
        import_checkpoint(tmp_path / "linear.pth", tmp_path / "no", "digits", Silent())
    with pytest.raises(CheckpointError, match="holds no linear classifier"):
        brought(tmp_path / "enc.pth", supcontrast(), tmp_path / "no", classifier=tmp_path / "enc.pth")


# ---- what does not fit


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    content["encoder"] = {key: tensor for key, tensor in content["encoder"].items() if name not in key}
    return content


def test_missing_extra_and_misshapen_keys_are_listed(tmp_path: Path) -> None:
    arch = {"arch": "resnet-small"}
    extra, wrong = excon(), excon()
    extra["encoder"]["surprise.weight"] = torch.zeros(1)
    wrong["encoder"]["encoder.module.layer3.0.shortcut.1.bias"] = torch.zeros(7)
    cases: list[tuple[Any, str]] = [
        (without(excon(), "layer3.0.bn2.bias"), "missing backbone.layer3.0.bn2.bias"),
        (extra, "extra surprise.weight"),
        (wrong, r"backbone.layer3.0.downsample.1.bias has shape \(7,\), expected \(64,\)"),
        ({**BACKBONE, **HEAD, "fc2.weight": torch.zeros(1)}, "extra backbone.fc2.weight"),
        ({"weights": {"a": torch.zeros(1)}}, "no network that is known .found: weights"),
        ({"epoch": 3}, "no network that is known .found: no tensors"),
        (
            {**cifar_style(""), **{f"module.{n}": t for n, t in cifar_style("").items()}},
            "several networks: the file itself, module",
        ),
        ({**BACKBONE, **HEAD, "fc.bias": torch.zeros(1).expand(10**10)}, "not a dense array with a plain name"),
    ]
    for content, message in cases:
        with pytest.raises(CheckpointError, match=message):
            brought(tmp_path / "ckpt.pth", content, tmp_path / "run", **arch)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_other_constants_than_the_data_sets_are_refused(tmp_path: Path) -> None:
    """As text in the options, or in a transform; what agrees to three digits passes."""
    bad = [
        excon(mean="(0.5,)", std=str(INFO.std)),
        excon(transform=transforms.Compose([transforms.Normalize((0.5,), (0.2,))])),
        excon(mean="(0.4914, 0.4822, 0.4465)", std="(0.2675, 0.2565, 0.2761)"),
    ]
    for content in bad:
        with pytest.raises(DataError, match=r"trained with mean \(0.\d+.*digits has mean \(0.\d+,\) std \(0.\d+,\)"):
            brought(tmp_path / "bad.pth", content, tmp_path / "run")
    close = f"({INFO.mean[0] + 5e-4:.5f},)"
    brought(tmp_path / "good.pth", excon(mean=close, std=str(INFO.std), note="mean"), tmp_path / "good")


@pytest.mark.fault("C23")
def test_a_run_is_never_overwritten_and_the_same_import_has_nothing_to_do(tmp_path: Path) -> None:
    run, _ = brought(tmp_path / "ckpt.pth", excon(), tmp_path / "run")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    told = Told()
    assert import_checkpoint(tmp_path / "ckpt.pth", run, "digits", told, arch="resnet-small") == run
    assert told.lines == [f"{run} holds this checkpoint already: nothing to do"]
    torch.save({**excon(), "epoch": 7}, tmp_path / "other.pth")
    for name, method in (("other.pth", None), ("ckpt.pth", "mine")):
        with pytest.raises(UsageError, match="already holds a run"):
            import_checkpoint(tmp_path / name, run, "digits", told, method=method)
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    (run / "best.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"best.safetensors is truncated"):
        import_checkpoint(tmp_path / "ckpt.pth", run, "digits", told)


@pytest.mark.fault("C23")
def test_an_import_waits_for_nobody_and_leaves_a_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process at a time writes a run, and a training that can still go on is not replaced by another network."""
    monkeypatch.setattr(quarantine, "_limit_memory", lambda _: None)
    monkeypatch.setattr(quarantine, "_run_child", quarantine.main)
    run = tmp_path / "run"
    run.mkdir()
    with locked(run), pytest.raises(BusyError):
        brought(tmp_path / "ckpt.pth", excon(), run)
    assert not list(run.iterdir())
    (run / "state").mkdir()
    for content in (excon(), moco()):
        with pytest.raises(UsageError, match="holds a training that is not finished"):
            brought(tmp_path / "ckpt.pth", content, run)
    assert [path.name for path in run.iterdir()] == ["state"]


def test_heads_and_values_are_checked(tmp_path: Path) -> None:
    seven = {**excon(), "classifier": {name: tensor[:7] for name, tensor in HEAD.items()}}
    with pytest.raises(DataError, match="head has 7 outputs, digits has 10 classes"):
        brought(tmp_path / "seven.pth", seven, tmp_path / "seven")
    poisoned = excon()
    poisoned["encoder"]["encoder.module.conv1.weight"] = BACKBONE["conv1.weight"] * float("nan")
    with pytest.raises(DataError, match="backbone.conv1.weight of .* NaN"):
        brought(tmp_path / "nan.pth", poisoned, tmp_path / "nan")


def test_safetensors_files_are_imported_as_well(tmp_path: Path) -> None:
    save_safetensors({**BACKBONE, **HEAD}, tmp_path / "model.safetensors")
    run = import_checkpoint(tmp_path / "model.safetensors", tmp_path / "run", "digits", Silent())
    assert same_bits(load_file(run / "best.safetensors"), OURS)


# ---- payloads, and the child


@pytest.mark.fault("C5")
def test_the_command_writes_a_run_whose_scores_are_those_of_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Namespace, transforms, optimisers, ``module.``: in a child process, as a user types it."""
    model = network(seed=1)
    content = excon()
    content["encoder"] = {f"encoder.module.{n}": t for n, t in model.backbone.state_dict().items()} | PROJECTION
    content["classifier"] = {f"fc.{name}": tensor for name, tensor in model.head.state_dict().items()}
    torch.save(content, tmp_path / "excon.pth")
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    shown = xeval("import", "excon.pth", "--out", "runs/mine", "--dataset", "digits", cwd=tmp_path)
    assert shown.stdout.strip() == "runs/mine"
    assert "dropped e_optimizer" in shown.stderr
    assert same_bits(load_file(tmp_path / "runs" / "mine" / "best.safetensors"), model.state_dict())
    quick: dict[str, Any] = {"limit": 10, "metrics": ("drop",), "explainers": ("grad-cam", "random")}
    theirs = read_json(score(tmp_path / "runs" / "mine", **quick) / "scores.json")
    ours = read_json(score(tmp_path / "ours.pt", dataset="digits", **quick) / "scores.json")
    assert theirs["scores"] == ours["scores"]
    assert theirs["model"] == ours["model"]
    assert theirs["checkpoint"]["sha256"] == ours["checkpoint"]["sha256"]


@pytest.mark.fault("C6")
def test_payloads_among_the_options_are_ignored_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch refuses ``os.system`` under any name; a call of ``eval`` becomes an object that does nothing."""
    marker = tmp_path / "marker"
    torch.save(excon(hook=hostile.system(marker)), tmp_path / "system.pth")
    out = tmp_path / "system"
    status, _, message = here(capsys, "import", str(tmp_path / "system.pth"), "--out", str(out), "--dataset", "digits")
    assert status == 4
    assert "ignored object posix.system" in message
    assert not out.exists()
    torch.save(excon(hook=hostile.evaluated(marker), other=hostile.spawned(marker)), tmp_path / "eval.pth")
    told = Told()
    run = import_checkpoint(tmp_path / "eval.pth", tmp_path / "eval", "digits", told)
    assert "ignored object builtins.eval" in told.lines
    assert same_bits(load_file(run / "best.safetensors"), OURS)
    assert not marker.exists()


@pytest.mark.fault("C6")
def test_the_memory_of_the_child_is_bounded(tmp_path: Path) -> None:
    """A file of 10 MB whose tensors all look at the same bytes would take 4 GB once each has its own."""
    same = torch.zeros(10_000_000, dtype=torch.uint8)
    torch.save({str(number): same for number in range(400)}, tmp_path / "aliases.pth")
    assert (tmp_path / "aliases.pth").stat().st_size < 12_000_000
    with pytest.raises(CheckpointError, match="asks for far more memory than its size"):
        import_checkpoint(tmp_path / "aliases.pth", tmp_path / "run", "digits", Silent())


def test_a_child_that_dies_or_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(excon(), tmp_path / "excon.pth")
    monkeypatch.undo()
    monkeypatch.setattr(quarantine.sys, "executable", "/bin/false")
    with pytest.raises(CheckpointError, match="ended the process that read it .code 1."):
        import_checkpoint(tmp_path / "excon.pth", tmp_path / "run", "digits", Silent())
    monkeypatch.undo()
    monkeypatch.setattr(quarantine, "SECONDS", 0.01)
    with pytest.raises(CheckpointError, match="takes more than 0.01 s to read"):
        import_checkpoint(tmp_path / "excon.pth", tmp_path / "run", "digits", Silent())


@pytest.mark.fault("C6")
def test_the_child_imports_nothing_from_the_folder_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch.py", "argparse.py", "json.py", "xeval.py", "sitecustomize.py"):
        (tmp_path / name).write_text("open('marker', 'w')\nraise SystemExit(9)\n")
    torch.save(excon(), tmp_path / "excon.pth")
    monkeypatch.chdir(tmp_path)
    assert import_checkpoint(Path("excon.pth"), Path("run"), "digits", Silent()).is_dir()
    assert not (tmp_path / "marker").exists()


def test_no_hostile_file_is_imported(tmp_path: Path) -> None:
    for path in hostile.write_all(tmp_path, tmp_path / "marker"):
        with pytest.raises(XevalError) as caught:
            import_checkpoint(path, tmp_path / "run", "digits", Silent())
        assert caught.value.exit_code == 4
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "run").exists()


def test_every_layout_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert [layout.name for layout in LAYOUTS if layout.name not in text] == []
