"""Tell networks, weights and functions from others by what they compute, not by what they are called."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from xeval.runtime.files import digest

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
LIBRARIES = ("builtins", "torch", "torchvision", "timm", "transformers", "xeval")


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Return the hash of names, types, shapes and values, independent of the file format and of the order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def network_sha256(model: nn.Module) -> str:
    """Return the hash of a module's tensors, classes, parts and settings, as weights do not say which network it is.

    Of classes that no library of networks has, the code counts. What a forward pass reads elsewhere is not seen.
    """
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    parts = [
        (name, type(part).__module__, type(part).__qualname__, _settings(part)) for name, part in model.named_modules()
    ]
    code = [_code_of(kind) for kind in sorted({type(part) for part in model.modules()}, key=str)]
    return digest([tensors_sha256(state), ADDRESS.sub("", repr(model)), parts, code])


def _code_of(kind: type) -> Any:
    """Return the functions of a class and of those it is made of, as far as they are no library's."""
    own = [one for one in kind.__mro__ if one.__module__.partition(".")[0] not in LIBRARIES]
    return [
        [(name, _code(found.__code__)) for name, found in sorted(vars(one).items()) if isinstance(found, FunctionType)]
        for one in own
    ]


def function_identity(function: Any) -> Any:
    """Return what a function computes, as far as it can be read: its code, defaults and closed-over values.

    What it reads elsewhere is not seen. Other values are known by their text, modules by their tensors and settings.
    """
    if isinstance(function, nn.Module):
        return network_sha256(function)
    if isinstance(function, partial):
        return [function_identity(part) for part in (function.func, function.args, sorted(function.keywords.items()))]
    code = getattr(function, "__code__", None)
    if code is None:
        return ADDRESS.sub("", repr((function, getattr(function, "__dict__", None))))
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    bound = [*closed, *(function.__defaults__ or ()), getattr(function, "__self__", None)]
    return [_code(code), [function_identity(value) for value in bound]]


def _code(code: CodeType) -> Any:
    constants = [_code(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]


def _settings(part: nn.Module) -> list[tuple[str, str]]:
    """Return the plain attributes of a module."""
    plain = (bool, int, float, str, tuple, type(None))
    return sorted(
        (name, ADDRESS.sub("", repr(value)))
        for name, value in vars(part).items()
        if isinstance(value, plain) and name != "training" and not name.startswith("_")
    )
