"""Quantus 0.6.0 made safe for the length of one call, and the call itself.

Quantus draws from the global generators of numpy and torch, uses names that numpy 2.4 no longer has, keeps every model
it has seen alive and writes into the arrays it is given. Everything changed here is put back on the way out; the
arrays are copies. Quantus is imported when a metric runs, not before.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xeval.metrics import Explained
from xeval.models import Classifier

Array = NDArray[Any]

QUIET: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}
_ABSENT = object()


@dataclass(frozen=True)
class Given:
    """Host arrays for one call: images N×C×H×W, maps N×1×H×W, classes (N,), masks N×1×H×W or None, seeds of the images.

    ``classes`` is the number of the network's outputs, ``layer`` the name of its backbone where it has one.
    """

    x: Array
    a: Array
    y: Array
    s: Array | None
    seeds: tuple[int, ...]
    classes: int
    layer: str | None

    @property
    def seed(self) -> int:
        """The seed of the call: that of its first image."""
        return self.seeds[0]

    @property
    def height(self) -> int:
        """Rows of the images."""
        return int(self.x.shape[2])

    @property
    def width(self) -> int:
        """Columns of the images."""
        return int(self.x.shape[3])

    @property
    def pixels(self) -> int:
        """H · W."""
        return self.height * self.width

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.x.shape[1])

    def image(self, number: int) -> Given:
        """The same for one image alone, with its own seed."""
        one = slice(number, number + 1)
        masks = None if self.s is None else self.s[one]
        return replace(self, x=self.x[one], a=self.a[one], y=self.y[one], s=masks, seeds=self.seeds[one])


def given(explained: Explained, maps: Tensor) -> Given:
    """Copies on the host of what a Quantus metric reads."""
    scene = explained.scene
    return Given(
        x=scene.images.cpu().numpy().copy(),
        a=maps.detach().cpu().numpy().astype(np.float64),
        y=scene.targets.cpu().numpy().copy(),
        s=None if scene.masks is None else scene.masks.cpu().numpy().astype(np.int64),
        seeds=tuple((key ^ scene.seed) % 2**31 for key in scene.keys.tolist()),
        classes=scene.engine.logits(scene.images[:1]).shape[1],
        layer="backbone" if isinstance(scene.engine.model, Classifier) else None,
    )


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` inside; afterwards what it was, or absent again."""
    before = getattr(owner, name, _ABSENT)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators of numpy and torch started at ``seed``; their states are as before on the way out."""
    state = np.random.get_state()  # noqa: NPY002 - Quantus draws from it
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def quantus_runtime(seed: int) -> Iterator[None]:
    """Quantus as it should be: numpy's old names, seeded draws, per-image refusals left to the caller, no leaks.

    Its assertions on maps look at the whole batch, and build a Python set of every value; its warning on unchanged
    images compares every image at every step. Both are left out: constant maps are sorted out per image by the bridge.
    """
    from quantus.helpers import asserts, utils, warn

    with ExitStack() as stack:
        for name, value in (("trapz", np.trapezoid), ("NaN", np.nan)):
            if not hasattr(np, name):
                stack.enter_context(replaced(np, name, value))
        for name in ("assert_attributions", "assert_nr_segments"):
            stack.enter_context(replaced(asserts, name, _nothing))
        stack.enter_context(replaced(warn, "warn_perturbation_caused_no_change", _nothing))
        stack.enter_context(replaced(utils, "PyTorchModel", _model_class()))
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(seeded(seed))
        yield


def _nothing(*_args: Any, **_keywords: Any) -> None:
    """Stands in for a check that is made elsewhere."""


@cache
def _model_class() -> Any:
    """Quantus's wrapper of a torch module without its endless caches, and with a shift any first layer can take."""
    from quantus.helpers.model import pytorch_model

    base: Any = pytorch_model.PyTorchModel

    class Model(base):  # type: ignore[misc]
        _get_last_softmax_layer_index = base._get_last_softmax_layer_index.__wrapped__
        _get_model_with_linear_top = base._get_model_with_linear_top.__wrapped__

        def add_mean_shift_to_first_layer(self, input_shift: float, _shape: tuple[int, ...]) -> nn.Module:
            return shifted(self.model, input_shift)

    return Model


def shifted(model: nn.Module, shift: float) -> nn.Module:
    """A copy of ``model`` that gives for x + ``shift`` what the model gives for x.

    The shift is undone in front of the first layer with weights, which needs no bias and is exact at padded borders.
    """
    moved = copy.deepcopy(model)
    first = next(layer for layer in moved.modules() if next(layer.parameters(recurse=False), None) is not None)
    first.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] - shift, *inputs[1:]))
    return moved


Explain = Callable[..., Array]


def explainer(explained: Explained) -> Explain:
    """The explainer as the function Quantus calls, for any network and classes; versions are numbered from 1."""
    scene = explained.scene
    numbers = count(1)

    def explain(model: nn.Module, inputs: Array, targets: Array, **_: Any) -> Array:
        versions = torch.as_tensor(inputs, dtype=scene.images.dtype, device=scene.images.device)
        classes = torch.as_tensor(targets, device=scene.images.device)
        other = None if model is scene.engine.model else model
        maps: Array = explained.version(versions, next(numbers), targets=classes, model=other).cpu().numpy()
        return maps

    return explain


def run(
    metric: Any,
    explained: Explained,
    what: Given,
    *,
    smoothed: bool = False,
    model: nn.Module | None = None,
    **options: Any,
) -> Any:
    """Call a Quantus metric on copies inside :func:`quantus_runtime`; ``options`` go to the call.

    ``model`` stands in for the scene's network. With ``smoothed`` the metric explains the images itself through
    ``quantus.explain``, which is the explainer here.
    """
    import quantus

    scene, explain = explained.scene, explainer(explained)
    masks = {} if what.s is None else {"s_batch": what.s.copy()}
    with quantus_runtime(what.seed), replaced(quantus, "explain", explain):
        return metric(
            model=scene.engine.model if model is None else model,
            x_batch=what.x.copy(),
            y_batch=what.y.copy(),
            a_batch=None if smoothed else what.a.copy(),
            explain_func=explain,
            channel_first=True,
            device=str(scene.images.device),
            batch_size=len(what.x),
            **masks,
            **options,
        )
