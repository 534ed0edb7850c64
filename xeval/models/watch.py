"""Watch a network at work: every call of a module in one pass, and what the score's gradient says of each.

A module may give a tuple or another container. Its tensor is then the first one in it, unless another one has the same
shape, which leaves open which of them is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from xeval.errors import UsageError
from xeval.models.frozen import frozen_eval


@dataclass(frozen=True)
class Call:
    """One call of a module: its tensors, given and made.

    ``alone`` says that the module gives nothing beside its tensor; ``begun`` is how many calls had ended when it began.
    """

    module: nn.Module
    given: tuple[Tensor, ...]
    made: Tensor
    alone: bool
    begun: int


def bare(model: nn.Module) -> nn.Module:
    """Return the network inside DataParallel and torch.compile: its layers have their own names and can be watched.

    Raises:
        UsageError: a part is TorchScript, which cannot be watched.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise UsageError("the model is TorchScript, whose layers cannot be watched", "give the module it was made from")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return bare(model.module)
    inner = getattr(model, "_orig_mod", None)  # of torch.compile
    return bare(inner) if isinstance(inner, nn.Module) else model


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run parts of a network that torch.compile has wrapped as they are written: what is watched is seen then."""
    with ExitStack() as held:
        if any(hasattr(part, "_orig_mod") for part in model.modules()):
            held.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def tensor_of(output: Any) -> Tensor | None:
    """Return the tensor that a module gives, the first of several; None where there is none or it is not clear."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not tensors or any(other.shape == tensors[0].shape and other is not tensors[0] for other in tensors):
        return None
    return tensors[0]


def replaced(output: Any, tensor: Tensor, by: Tensor) -> Any:
    """Return what a module gives with another tensor in the place of ``tensor``."""
    leaves, form = tree_flatten(output)
    return tree_unflatten([by if leaf is tensor else leaf for leaf in leaves], form)


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same numbers in memory, read in the same way."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def example(images: Tensor) -> Tensor:
    """Return one image without structure, 1×C×H×W, the same for all images of a shape: evidence is not their affair."""
    pixels = _waves(images[0].numel()).reshape(1, *images.shape[1:])
    return pixels.to(images.device, images.dtype)


def two_examples(images: Tensor) -> Tensor:
    """Return two different images, in which nothing that a batch shares or that is made of windows looks like a map."""
    one = example(images)
    return torch.cat([one, one.flip(-1, -2)])


def _waves(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64).square().mul(0.618).cos()


def calls(model: nn.Module, images: Tensor) -> list[Call]:
    """Return the calls of all modules in one pass, inner ones first, as far as they give a tensor."""
    with torch.no_grad():
        return _calls(model, images)


def calls_and_slopes(model: nn.Module, images: Tensor) -> tuple[list[Call], dict[int, Tensor]]:
    """Return the calls of one pass, and the gradient of the score by the ``id`` of the tensors that calls have made.

    The score is a sum of the logits with uneven weights or, where a linear layer makes them, of what it is given: new
    heads are often 0. Tensors without a gradient, or with one of zeros, are left out.
    """
    with torch.enable_grad():
        pixels = images.clone().requires_grad_()
        seen = _calls(model, pixels * 1)  # networks may change their input in place, but not a leaf
        score = _score(model, seen)
        made = {id(call.made): call.made for call in seen if call.made.requires_grad}
        slopes = torch.autograd.grad(score, list(made.values()), allow_unused=True) if score.requires_grad else ()
    return seen, {key: one for key, one in zip(made, slopes, strict=False) if one is not None and bool(one.any())}


def _score(model: nn.Module, seen: list[Call]) -> Tensor:
    if not seen or seen[-1].module is not model:
        return torch.zeros(())  # the network gives no tensor
    logits = seen[-1].made
    read = next((call.given[0] for call in seen if call.made is logits and isinstance(call.module, nn.Linear)), logits)
    return (read * _waves(read.numel()).reshape(read.shape).to(read)).sum()


def _calls(model: nn.Module, images: Tensor) -> list[Call]:
    seen: list[Call] = []
    begun: list[int] = []

    def begin(*_: Any) -> None:
        begun.append(len(seen))

    def end(module: nn.Module, given: Any, named: dict[str, Any], output: Any) -> None:
        first, made = begun.pop(), tensor_of(output)
        tensors = tuple(value for value in (*given, *named.values()) if isinstance(value, Tensor))
        if made is not None:
            seen.append(Call(module, tensors, made, isinstance(output, Tensor), first))

    handles = [module.register_forward_pre_hook(begin) for module in model.modules()]
    handles += [module.register_forward_hook(end, with_kwargs=True) for module in model.modules()]
    try:
        with frozen_eval(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen
