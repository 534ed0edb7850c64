"""Trace a network as a graph of operations, and check that methods with rules for layers can be applied to it.

DeepLift, LRP and guided backpropagation replace the derivative of some modules. If a network computes something
outside those modules, they return wrong numbers without an error. Such networks are therefore refused here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from torch import fx, nn

from xeval.errors import UsageError
from xeval.models.reading import graph_of, readings_of
from xeval.runtime.endings import first_line

LINEAR_MODULES: tuple[type[nn.Module], ...] = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Dropout,
    nn.Identity,
)
SHAPES = frozenset({"flatten", "view", "reshape", "contiguous", "size", "getattr", "getitem"})
LINEAR_CALLS = SHAPES | {"add", "iadd", "add_", "sub", "mean", "squeeze", "permute", "transpose", "cat"}
LINEAR_CALLS |= {"adaptive_avg_pool2d", "avg_pool2d", "dropout"}
INSTEAD = "use integrated-gradients or input-x-gradient, which work for every differentiable network"


def trace(model: nn.Module, method: str) -> fx.Graph:
    """Return the graph of ``model``; raise :class:`UsageError` if its forward pass depends on computed values."""
    try:
        return graph_of(model)
    except Exception as error:  # the network's own code can raise anything on a symbolic input
        reason = first_line(error, 80)
        raise UsageError(f"{method} cannot follow the network's forward pass ({reason})", INSTEAD) from None


def require_logits(model: nn.Module, method: str) -> None:
    """Raise :class:`UsageError` if something other than a linear step makes logits of what the network answers."""
    for reading in readings_of(model):
        if reading.curved:
            raise UsageError(f"{method} has no rule for {reading.curved} behind the network", INSTEAD)


def require_modules(model: nn.Module, graph: fx.Graph, method: str, nonlinear: Collection[type[nn.Module]]) -> None:
    """Raise :class:`UsageError` unless every module is linear or of one of the ``nonlinear`` types."""
    for node in graph.nodes:
        kind = type(model.get_submodule(node.target)) if node.op == "call_module" else nn.Identity
        if kind not in nonlinear and kind not in LINEAR_MODULES:
            raise UsageError(f"{method} has no rule for {kind.__name__} ({node.target})", INSTEAD)


def require_calls(graph: fx.Graph, method: str, known: Collection[str] = LINEAR_CALLS) -> None:
    """Raise :class:`UsageError` if something computed outside of modules is not among the ``known`` functions."""
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and called(node) not in known:
            raise UsageError(f"{method} has no rule for {called(node)!r}, computed outside of any module", INSTEAD)


def require_used_once(model: nn.Module, graph: fx.Graph, method: str, nonlinear: Collection[type[nn.Module]]) -> None:
    """Raise :class:`UsageError` if a non-linear module is called more than once in a forward pass."""
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for name, count in uses.items():
        if count > 1 and type(model.get_submodule(name)) in nonlinear:
            raise UsageError(
                f"{method} needs activations that are used once, and this network uses the module {name!r} "
                f"{count} times",
                f"give each use a module of its own, or {INSTEAD}",
            )


def called(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else node.target.__name__
