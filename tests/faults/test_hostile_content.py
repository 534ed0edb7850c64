"""Rows C24 and C25: files that load, and whose tensors, containers, names or texts would break what reads them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from tests.commands import here
from tests.faults import hostile
from tests.faults.weights import DIGITS, load, put, refused, state
from tests.runs import make_run
from xeval.checkpoints import load as checkpoints
from xeval.checkpoints import sandbox

METHODS = ("numel", "detach", "clone", "element_size", "untyped_storage", "is_floating_point", "contiguous")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files apart without the cost of a child process, and without hiding its tracebacks in it."""
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)


def with_attributes(tensor: Tensor) -> Tensor:
    """A tensor that carries numbers under names which :func:`disguised` turns into those of methods."""
    odd = tensor.clone()
    for name in METHODS:
        setattr(odd, f"Q{name[1:]}", 5)
    return odd


def disguised(data: bytes, names: Iterable[str]) -> bytes:
    """The file in which the attributes ``Qxxx`` have the names of methods: torch restores such attributes."""

    def change(member: str, body: bytes) -> bytes:
        for name in names:
            body = body.replace(f"Q{name[1:]}".encode(), name.encode()) if member.endswith("data.pkl") else body
        return body

    return hostile.rezipped(data, change)


def refused_by_import(capsys: pytest.CaptureFixture[str], path: Path, code: int = 4) -> str:
    status, _, message = here(capsys, "import", str(path), "--out", str(path.with_suffix(".run")), *DIGITS)
    assert status == code, message
    assert len(message) < 2000
    return message


@pytest.mark.fault("C24")
def test_attributes_named_like_methods_change_nothing(tmp_path: Path) -> None:
    """On tensors, parameters and ordered dictionaries: they are gone before anything is called."""
    whole = state()
    tensors = OrderedDict({name: with_attributes(tensor) for name, tensor in whole.items()})
    tensors["head.bias"] = nn.Parameter(tensors["head.bias"])
    hidden = ("items", "keys", "get", "values")
    for name in hidden:
        setattr(tensors, f"Q{name[1:]}", 7)
    put(tmp_path / "odd.pt", disguised(hostile.saved({"state_dict": tensors}), (*METHODS, *hidden)))
    armed = torch.load(tmp_path / "odd.pt", weights_only=True)["state_dict"]
    assert armed.items == 7
    assert armed["head.weight"].numel == armed["head.weight"].untyped_storage == 5
    loaded = load(tmp_path / "odd.pt")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.model.state_dict().items())
    foreign = sandbox.open_foreign(tmp_path / "odd.pt")
    assert foreign.containers["state_dict"].keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in foreign.containers["state_dict"].items())


def nested(depth: int, kind: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = kind(value)
    return value


def circular() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["again"] = [inner]
    return inner


def doubled(depth: int = 60) -> Any:
    """Two to the sixty items, were each counted."""
    return nested(depth, lambda value: [value, value])


HOSTILE: dict[str, Callable[[], Any]] = {
    "float8": lambda: {n: t.to(torch.float8_e4m3fn) if t.ndim == 4 else t for n, t in state().items()},
    "float8 in a bias": lambda: {**state(), "head.bias": torch.zeros(10).to(torch.float8_e5m2)},
    "uint16": lambda: {**state(), "head.bias": torch.zeros(10, dtype=torch.uint16)},
    "complex": lambda: {**state(), "head.bias": torch.zeros(10, dtype=torch.complex64)},
    "a name of 5 MB": lambda: {**state(), "x" * 5_000_000: torch.zeros(1)},
    "a name with escapes": lambda: {**state(), "head.\x1b[31mred": torch.zeros(1)},
    "a name of surrogates": lambda: {**state(), "head.\udc80": torch.zeros(1)},
    "a number for a name": lambda: {**state(), 5: torch.zeros(1)},
    "300 dictionaries deep": lambda: {**state(), "x": nested(300, lambda value: {"a": value})},
    "200 lists deep": lambda: {"state_dict": state(), "x": nested(200, lambda value: [value])},
    "circular": lambda: {"state_dict": state(), "x": circular()},
    "doubled": lambda: {"state_dict": state(), "x": doubled()},
    "no dimension": lambda: {**state(), "head.weight": torch.tensor(1.0)},
    "empty": lambda: {**state(), "backbone.stem.0.weight": torch.zeros(0)},
    "empty convolutions": lambda: (
        {name: torch.zeros(0, 1, 3, 3) for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight")}
        | {"bn1.weight": torch.zeros(0)}
    ),
    "numbers of 190 digits": lambda: {f"{'9' * 190}.0.conv1.weight": torch.zeros(1), "1.weight": torch.zeros(1)},
}


@pytest.mark.fault("C24")
@pytest.mark.parametrize("kind", HOSTILE)
def test_odd_content_is_refused_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "odd.pt", hostile.saved(HOSTILE[kind]()))
    assert len(refused(capsys, path)) < 2000
    refused_by_import(capsys, path)


@pytest.mark.fault("C24")
@pytest.mark.parametrize(
    "tensors",
    [
        {"x" * 5_000_000: torch.zeros(1)},
        {**state(), "head.bias": torch.zeros(10).to(torch.float8_e4m3fn)},
        {"a\nb": torch.zeros(1)},
    ],
    ids=["long", "float8", "lines"],
)
def test_the_same_in_a_safetensors_file_of_any_suffix(
    tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("odd.safetensors", "odd.pth"):
        path = put(tmp_path / name, save_safetensors(tensors))
        assert len(refused(capsys, path)) < 2000
        refused_by_import(capsys, path)


@pytest.mark.fault("C25")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", nested(900, lambda value: {"a": value})),
        ("provenance", nested(900, lambda value: [value])),
        ("name", "x" * 5_000_000),
        ("method", "x" * 5_000_000),
        ("seed", "x" * 5_000_000),
        ("schema", "x" * 5_000_000),
        ("model", {"arch": "x" * 5_000_000, "num_classes": 10, "image_size": 16}),
        ("model", {"arch": "timm:hf-hub:someone/network", "num_classes": 10, "image_size": 16}),
        ("model", {"arch": "torchvision:vit_b_16", "num_classes": 10**18, "image_size": 10**9}),
        ("model", {"arch": "timm:vit_tiny_patch16_224", "num_classes": 10, "image_size": 10**9}),
        ("model", {"arch": "resnet:bottleneck,400-400-400,8192,8192x1,64", "num_classes": 10, "image_size": 16}),
    ],
)
def test_a_hostile_description_is_refused_in_one_line(
    key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run")
    checkpoints.export(run, tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    card = {**json.loads(content["xeval"]), key: value}
    path = put(tmp_path / "claims.pt", hostile.saved({**content, "xeval": json.dumps(card)}))
    assert len(refused(capsys, path)) < 2000


@pytest.mark.fault("C25")
def test_a_description_too_deep_to_be_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = "[" * 200_000 + "]" * 200_000
    path = put(tmp_path / "deep.pt", hostile.saved({"xeval": deep, "state_dict": state()}))
    assert "damaged run description" in refused(capsys, path)


@pytest.mark.parametrize("how", ["script", "whole", "in a dictionary", "compiled"])
def test_a_whole_module_is_answered_at_once(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "module.pt"
    model: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    if how == "script":
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 1, 8, 8)), str(path))
    else:
        model = torch.compile(model) if how == "compiled" else model
        torch.save({"epoch": 3, "model": model} if how == "in a dictionary" else model, path)
    assert refused(capsys, path).endswith("— save model.state_dict()")
    assert refused_by_import(capsys, path).endswith("— save model.state_dict()")
