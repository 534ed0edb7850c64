"""Compute layer-wise relevance propagation through captum, on a copy of the network in which its rules hold.

Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation", 2015;
the composite of rules is EpsilonPlusFlat (Montavon et al., "Layer-wise relevance propagation: an overview", 2019).
captum's own default, the ε-rule everywhere, equals input×gradient in networks of ReLUs, and it counts relevance twice
at residual sums that are not modules.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xeval.errors import UsageError
from xeval.explainers.base import explainer
from xeval.explainers.gradients import in_chunks, summed
from xeval.explainers.graph import INSTEAD, SHAPES, called, require_calls, require_logits, require_modules, trace
from xeval.models.reading import Reading, readings_of

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
SUMS, RELUS = frozenset({"add", "iadd", "add_"}), frozenset({"relu", "relu_"})
KNOWN = SHAPES | SUMS | RELUS | {"mean", "adaptive_avg_pool2d"}


@explainer("lrp", units="location", citation="Bach et al., PLOS ONE 2015; Montavon et al., 2019")
def lrp(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The logit handed back layer by layer, each layer sharing it out among its inputs; the composite EpsilonPlusFlat.

        R_j = Σ_k  a_j w_jk / Σ_j' a_j' w_j'k · R_k        A = Σ over channels of R at the image

    Linear layers, sums and pooling share relevance in proportion to their inputs' contributions (ε = 1e-9 in the
    denominator), convolutions in proportion to the positive contributions only (z⁺), the first convolution evenly over
    its window (flat). BatchNorm is folded into the convolutions. With one linear layer, Σ A = logit − its bias.
    It is computed by captum's LRP on a copy in which every sum is a module, because on the network itself captum counts
    relevance twice at residual sums. The biases of convolutions, to which BatchNorm adds its shifts, get no relevance;
    zennit's composite of this name lets positive ones absorb some, and agrees with this one without them. The map is
    N×1×H×W.

    Raises :class:`~xeval.errors.UsageError` for networks with anything but convolutions, BatchNorm behind them, linear
    layers, ReLUs, pooling and sums, or with a convolution behind the first whose input may be negative.
    """
    from captum.attr import LRP

    network = canonical(model)

    def attribute(x: Tensor, y: Tensor) -> Tensor:
        attach_rules(network)
        return summed(LRP(network).attribute(x, y))

    return in_chunks(images, targets, attribute)


def canonical(model: nn.Module) -> fx.GraphModule:
    """Return a copy in which BatchNorm is folded and every sum, pooling and activation is a module used only once."""
    require_logits(model, "lrp")
    graph, root = trace(model, "lrp"), nn.Module()
    require_modules(model, graph, "lrp", (nn.ReLU, nn.MaxPool2d))
    require_calls(graph, "lrp", KNOWN)
    for node in list(graph.nodes):
        if node.op == "call_module":
            _own_module(node, model.get_submodule(node.target), root)
        elif node.op in ("call_function", "call_method"):
            _own_call(node, root)
    for number, reading in enumerate(readings_of(model)):
        _append(graph, root, f"reading_{number}", reading)
    return fx.GraphModule(root, graph)


class Read(nn.Module):
    """A layer that makes logits of what a network answers; it hands relevance on as linear layers do."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = replace(reading, key=None)

    def forward(self, answer: Tensor) -> Tensor:
        """Return the logits N×classes."""
        return self.reading.logits(answer)


def _append(graph: fx.Graph, root: nn.Module, name: str, reading: Reading) -> None:
    """Let the graph end with a reading, except with one that only takes a part of the answer: the graph gives that."""
    if not reading.whole:
        root.add_module(name, Read(reading))
        output = next(node for node in graph.nodes if node.op == "output")
        with graph.inserting_before(output):
            output.args = (graph.call_module(name, (output.args[0],)),)


def _own_module(node: fx.Node, module: nn.Module, root: nn.Module) -> None:
    """Make the call of a module use a copy of that module, or remove the call from the graph."""
    if isinstance(module, nn.Dropout | nn.Identity):
        _replace(node, node.args[0])
    elif isinstance(module, nn.Flatten):
        with node.graph.inserting_before(node):
            axes = (int(module.start_dim), int(module.end_dim))
            _replace(node, node.graph.call_function(torch.flatten, (node.args[0], *axes)))
    elif isinstance(module, nn.BatchNorm2d):
        _fold(node, module, root)
    elif isinstance(module, nn.ReLU):
        _call(node, nn.ReLU(), root)
    else:
        _call(node, copy.deepcopy(module), root)


def _own_call(node: fx.Node, root: nn.Module) -> None:
    """Turn the call of a function or method into the call of a module."""
    from captum.attr._utils.custom_modules import Addition_Module

    name = called(node)
    if name in SUMS and len(node.all_input_nodes) == 2:
        _call(node, Addition_Module(), root)
    elif name in RELUS:
        _call(node, nn.ReLU(), root)
    elif name == "adaptive_avg_pool2d":
        _call(node, nn.AdaptiveAvgPool2d(node.args[1]), root)  # type: ignore[arg-type]
    elif name == "mean" and _spatial(node):
        pooled = _call(node, nn.AdaptiveAvgPool2d(1), root)
        with node.graph.inserting_after(pooled):
            flat = node.graph.call_function(torch.flatten, (pooled, 1))
        pooled.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)
    elif name not in SHAPES:
        raise UsageError(f"lrp has no rule for this use of {name!r}: {node.format_node()}", INSTEAD)


def _spatial(node: fx.Node) -> bool:
    """Return whether a call of ``mean`` averages exactly the last two of four axes and removes them."""
    given: dict[str, Any] = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | dict(node.kwargs)
    dims = given.get("dim")
    return isinstance(dims, tuple | list) and sorted(d % 4 for d in dims) == [2, 3] and not given.get("keepdim")


def _call(node: fx.Node, module: nn.Module, root: nn.Module) -> fx.Node:
    """Replace the node by a call of ``module``, which gets the node's tensors as its inputs."""
    root.add_module(node.name, module)
    inputs = tuple(part for part in node.args if isinstance(part, fx.Node))
    with node.graph.inserting_before(node):
        fresh = node.graph.call_module(node.name, inputs)
    _replace(node, fresh)
    return fresh


def _replace(node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _fold(node: fx.Node, norm: nn.BatchNorm2d, root: nn.Module) -> None:
    """Fold a BatchNorm into the convolution before it."""
    before = node.args[0]
    conv = getattr(root, str(before.target), None) if isinstance(before, fx.Node) else None
    if not isinstance(before, fx.Node) or not isinstance(conv, nn.Conv2d) or len(before.users) > 1:
        raise UsageError(f"lrp cannot fold {node.target}, which does not follow a convolution", INSTEAD)
    setattr(root, str(before.target), fuse_conv_bn_eval(conv, norm))
    _replace(node, before)


def attach_rules(network: fx.GraphModule) -> None:
    """Set the rules of convolutions and readings; captum's default, ε, is right for the other layers."""
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule

    for node in network.graph.nodes:
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, Read):
            module.rule = EpsilonRule()
        if isinstance(module, nn.Conv2d):
            first = node.args[0].op == "placeholder"
            if not first and not _positive(network, node.args[0]):
                raise UsageError(f"lrp has no rule for {node.target}, whose input may be negative", INSTEAD)
            module.rule = _flat_rule() if first else Alpha1_Beta0_Rule(set_bias_to_zero=True)


def _positive(network: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the value of a node comes from a ReLU, pooled or not."""
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, POOLS):
        return _positive(network, node.all_input_nodes[0])
    return isinstance(module, nn.ReLU)


def _flat_rule() -> Any:
    """Return the rule of the first layer: it shares relevance evenly among all positions of the window."""
    from captum.attr._utils.lrp_rules import EpsilonRule

    class Flat(EpsilonRule):  # type: ignore[misc]
        def _manipulate_weights(self, module: Any, inputs: tuple[Tensor, ...], _outputs: Tensor) -> None:
            module.weight.data = torch.ones_like(module.weight)
            if module.bias is not None:
                module.bias.data = torch.zeros_like(module.bias)
            module.activations[inputs[0].device] = (torch.ones_like(inputs[0]),)

    return Flat()
