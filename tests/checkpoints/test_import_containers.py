"""The network in a file is found whatever is around it, and what was taken, left out or filled is said.

Every file is written here in the layout of the script it stands for.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.faults.foreign import BACKBONE, HEAD, OURS, brought, momentum, network, options, same_bits, supcontrast
from xeval.checkpoints import sandbox
from xeval.checkpoints.card import read_card
from xeval.errors import CheckpointError, UsageError

NET = {**BACKBONE, **HEAD}
OTHER = {
    **network(seed=1).backbone.state_dict(),
    **{f"fc.{n}": t for n, t in network(seed=1).head.state_dict().items()},
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files apart without the cost of a child process."""
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)


def imported(tmp_path: Path, content: Any, **more: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the run that a file becomes, and what was said."""
    run, told = brought(tmp_path / "c.pth", content, tmp_path / f"run{len(list(tmp_path.iterdir()))}", **more)
    return load_file(run / "best.safetensors"), told


def under(prefix: str, tensors: dict[str, Tensor] = NET) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def is_other(found: dict[str, Tensor]) -> bool:
    return torch.equal(found["backbone.conv1.weight"], OTHER["conv1.weight"])


class Whole(nn.Module):
    """The small network as a script of its own would hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = deepcopy(network().backbone)
        self.fc = deepcopy(network().head)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.net(x).mean((-2, -1)))  # type: ignore[no-any-return]


# ---- containers


@pytest.mark.parametrize("key", ["net", "model_state_dict", "model_state", "network", "weights", "params", "модель"])
def test_one_network_is_found_under_any_key(key: str, tmp_path: Path) -> None:
    """The tutorial of PyTorch, kuangliu's CIFAR script (net, acc, epoch), and whatever else people write."""
    content = {key: NET, "optimizer_state_dict": momentum(), "epoch": 7, "loss": 0.25, "acc": torch.tensor(93.5)}
    found, told = imported(tmp_path, content)
    assert same_bits(found, OURS)
    assert f"recognised: a training checkpoint with {key}" in told
    assert "dropped optimizer_state_dict" in told


@pytest.mark.parametrize(
    "content",
    [
        {"state": {"model": NET, "optimizer": momentum()}, "epoch": 3},
        {"checkpoint": {"ema": {"decay": 0.9}, "weights": under("backbone.", BACKBONE) | under("backbone.", HEAD)}},
        {"module": under("module."), "global_steps": 100, "lr_scheduler": None},  # DeepSpeed
        {"model": OrderedDict(under("_orig_mod.module.")), "args": options()},
        {"app": under("_forward_module._orig_mod.")},  # Fabric
    ],
)
def test_one_network_is_found_at_any_depth_and_in_any_wrapper(content: Any, tmp_path: Path) -> None:
    assert same_bits(imported(tmp_path, content)[0], OURS)


def test_lightning_with_its_criterion_and_metrics_beside_the_network(tmp_path: Path) -> None:
    state = {
        **under("model."),
        "criterion.weight": torch.ones(10),
        "criterion.centers": torch.ones(10, 64),
        "train_acc.tp": torch.zeros(10),
        "val_f1.confmat": torch.zeros(10, 10),
        "test_metrics.accuracy.correct": torch.zeros(1),
        "projector.0.weight": torch.ones(64, 64),
        "projector.2.weight": torch.ones(10, 64),
    }
    content = {"state_dict": state, "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"seed": 4}, "epoch": 9}
    found, told = imported(tmp_path, content)
    assert same_bits(found, OURS)
    assert all(f"dropped state_dict.{name}" in told for name in state if not name.startswith("model."))


def test_what_may_be_part_of_the_network_is_not_dropped_unasked(tmp_path: Path) -> None:
    state = {**under("model."), "attention.weight": torch.ones(64, 64)}
    with pytest.raises(CheckpointError, match="but for extra attention.weight — .* with --key state_dict.model"):
        imported(tmp_path, {"state_dict": state})
    found, told = imported(tmp_path, {"state_dict": state}, key="state_dict.model")
    assert same_bits(found, OURS)
    assert "dropped state_dict.attention.weight" in told


def test_several_networks_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    content = {"student": NET, "teacher": {"backbone": OTHER}}
    with pytest.raises(CheckpointError, match="several networks: student, teacher.backbone — choose .* --key"):
        imported(tmp_path, content)
    assert same_bits(imported(tmp_path, content, key="student")[0], OURS)
    assert is_other(imported(tmp_path, content, key="teacher")[0])
    with pytest.raises(UsageError, match="no network at 'models' — it has: student, teacher.backbone"):
        imported(tmp_path, content, key="models")
    with pytest.raises(CheckpointError, match="several networks: state_dict.net_a, state_dict.net_b"):
        imported(tmp_path, {"state_dict": {**under("net_a."), **under("net_b.", OTHER)}})


def test_one_network_under_two_names_is_one(tmp_path: Path) -> None:
    assert same_bits(imported(tmp_path, {"a": NET, "b": dict(NET)})[0], OURS)
    with pytest.raises(CheckpointError, match="several networks"):
        imported(tmp_path, {"a": NET, "b": OTHER})


# ---- averaged weights


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "swa_model"])
def test_averaged_weights_are_said_and_taken_when_asked_for(key: str, tmp_path: Path) -> None:
    content = {"epoch": 9, "state_dict": NET, key: under("module.", OTHER)}
    found, told = imported(tmp_path, content)
    assert same_bits(found, OURS)
    assert f"the file also holds averaged weights ({key}); --ema takes them" in told
    found, told = imported(tmp_path, content, ema=True)
    assert is_other(found)
    assert f"averaged weights: {key}" in told
    with pytest.raises(UsageError, match="no averaged weights — it has: state_dict"):
        imported(tmp_path, {"state_dict": NET}, ema=True)


def test_averaged_weights_beside_a_layout_that_is_known(tmp_path: Path) -> None:
    """SupContrast's own keys do not hide what stands beside them."""
    average = {name: tensor + 1 for name, tensor in supcontrast()["model"].items()}
    content = {**supcontrast(), "model_ema": {**average, **HEAD}}
    content["model"] = {**content["model"], **HEAD}
    found, told = imported(tmp_path, content)
    assert any("averaged weights (model_ema" in line for line in told)
    assert same_bits(found, OURS)
    found, told = imported(tmp_path, content, ema=True)
    assert any(line.startswith("averaged weights: model_ema") for line in told)
    assert torch.equal(found["backbone.conv1.weight"], OURS["backbone.conv1.weight"] + 1)


def test_torchvisions_reference_script_with_its_ema(tmp_path: Path) -> None:
    """``AveragedModel`` counts its updates beside the weights, and knows itself by that under any key."""
    model = Whole()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    average.update_parameters(model)
    with torch.no_grad():
        model.fc.bias += 1
    average.update_parameters(model)
    content = {"model": model.state_dict(), "model_ema": average.state_dict(), "optimizer": momentum(), "epoch": 1}
    plain, told = imported(tmp_path, content)
    assert torch.equal(plain["head.bias"], model.fc.bias)
    assert any("averaged weights (model_ema" in line for line in told)
    found, told = imported(tmp_path, content, ema=True)
    assert torch.allclose(found["head.bias"], model.fc.bias - 0.5)
    assert "dropped 1 of n_averaged" in told
    alone, told = imported(tmp_path, {"best": average.state_dict()})
    assert same_bits(alone, found)
    assert "averaged weights: best.net" in told


# ---- what is dropped and filled


def test_the_counters_of_thop_are_dropped_wherever_they_stand(tmp_path: Path) -> None:
    layers = sorted({name.rpartition(".")[0] for name in NET})
    counted = {f"{layer}.{name}": torch.zeros(1) for layer in layers for name in ("total_ops", "total_params")}
    found, told = imported(tmp_path, {**NET, **counted, "total_ops": torch.zeros(1)})
    assert same_bits(found, OURS)
    assert f"dropped {len(layers) + 1} of total_ops" in told
    assert f"dropped {len(layers)} of total_params" in told


def test_missing_counters_of_batch_norm_and_a_missing_bias_are_filled(tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in NET.items() if "num_batches" not in name and name != "fc.bias"}
    found, told = imported(tmp_path, old)
    lost = [name for name in OURS if "num_batches" in name]
    assert f"filled {len(lost)} of num_batches_tracked with 0" in told
    assert "the head has no bias: filled with 0" in told
    assert same_bits(
        {n: t for n, t in found.items() if n not in lost and n != "head.bias"},
        {n: t for n, t in OURS.items() if n not in lost and n != "head.bias"},
    )
    assert all(int(found[name]) == 0 and found[name].dtype == torch.int64 for name in lost)
    assert torch.equal(found["head.bias"], torch.zeros(10))


def sequential() -> dict[str, nn.Module]:
    """Ways of cutting a network apart by its children, and of putting a head behind."""
    children = list(network().backbone.children())
    pool, head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()], deepcopy(network().head)
    without_relu = [one for one in children if not isinstance(one, nn.ReLU | nn.Identity)]
    dropped = nn.Sequential(OrderedDict(net=network().backbone, out=nn.Sequential(nn.Dropout(), deepcopy(head))))
    return {
        "flat": nn.Sequential(*children, *pool, head),
        "kuangliu": nn.Sequential(*without_relu, *pool, head),
        "nested": nn.Sequential(nn.Sequential(*children), *pool, head),
        "named": nn.Sequential(OrderedDict(features=nn.Sequential(*children), flat=nn.Flatten(), clf=head)),
        "dropout": dropped,
        "lightning": nn.ModuleDict({"feature_extractor": nn.Sequential(*children), "classifier": head}),
    }


@pytest.mark.parametrize("kind", sequential())
def test_renumbered_backbones_come_in(kind: str, tmp_path: Path) -> None:
    assert same_bits(imported(tmp_path, {"state_dict": sequential()[kind].state_dict()})[0], OURS)


def test_of_two_layers_that_fit_the_one_with_the_classes_is_the_head(tmp_path: Path) -> None:
    state = {**under("net.", BACKBONE), **under("rotation.", {"weight": torch.ones(4, 64), "bias": torch.ones(4)})}
    state |= {"labels.weight": HEAD["fc.weight"], "labels.bias": HEAD["fc.bias"]}
    found, _ = imported(tmp_path, state, key="net")
    assert same_bits(found, OURS)


def test_a_classifier_file_may_call_its_layer_anything(tmp_path: Path) -> None:
    torch.save({"classifier": {"module.linear.weight": HEAD["fc.weight"]}}, tmp_path / "linear.pth")
    found, told = imported(tmp_path, {"encoder": BACKBONE}, classifier=tmp_path / "linear.pth")
    assert torch.equal(found["head.weight"], HEAD["fc.weight"])
    assert "the head has no bias: filled with 0" in told


# ---- names and seeds


@pytest.mark.parametrize(
    ("content", "seed"),
    [
        ({"args": options(seed=3), "opt": options(seed=4)}, 3),
        ({"opt": options(seed=4, trial="5"), "seed": 6}, 4),
        ({"opt": options(trial="5"), "hyper_parameters": {"seed": 7}}, 5),
        ({"hyper_parameters": {"seed": 7}, "seed": 6}, 7),
        ({"seed": 0}, 0),
        ({"args": options(seed=None), "seed": 6}, 6),
        ({"args": options(seed="random")}, None),
        ({"seed": -1}, None),
        ({"seed": 2**70}, None),
        ({}, None),
    ],
)
def test_the_seed_is_the_files_or_unknown(content: dict[str, Any], seed: int | None, tmp_path: Path) -> None:
    run, _ = brought(tmp_path / "c.pth", {"model": NET, **content}, tmp_path / "run")
    assert read_card(run).seed == seed
    run, _ = brought(tmp_path / "c.pth", {"model": NET, **content}, tmp_path / "given", seed=11)
    assert read_card(run).seed == 11


def test_names_keep_their_alphabet(tmp_path: Path) -> None:
    run, _ = brought(tmp_path / "c.pth", NET, tmp_path / "прогон", method="Контраст β₂ 対照", name="мой ResNet")
    card = read_card(run)
    assert (card.name, card.method) == ("мой ResNet", "Контраст β₂ 対照")
    run, _ = brought(tmp_path / "мой.pth", {"args": options(method="対照"), "model": NET}, tmp_path / "b")
    assert (read_card(run).name, read_card(run).method) == ("b", "対照")
    run, _ = brought(tmp_path / "мой.pth", NET, tmp_path / "d")
    assert read_card(run).method == "мой"
    with pytest.raises(UsageError, match="--method .* is not one line of at most 200 characters"):
        brought(tmp_path / "c.pth", NET, tmp_path / "e", method="a\x1b[31m")
