"""Runs one metric of Quantus 0.6.0 without side effects.

Quantus draws from the global generators of numpy and torch, uses names that numpy 2.4 no longer has, keeps every model
it has seen alive and writes into the arrays it is given. So the arrays are copies, and everything that is changed here
is restored after the call. Quantus is imported when a metric runs, not before.
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
    """The host arrays of one call, made by :func:`given`.

    Images ``x`` are N×C×H×W, maps ``a`` N×1×H×W, explained classes ``y`` (N,), masks ``s`` N×1×H×W or None; ``seeds``
    holds one seed per image. ``classes`` is the number of the network's outputs, ``layer`` the name of its backbone
    where it has one.
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
        """The seed of the call, which is that of its first image."""
        return self.seeds[0]

    @property
    def height(self) -> int:
        """Height of the images."""
        return int(self.x.shape[2])

    @property
    def width(self) -> int:
        """Width of the images."""
        return int(self.x.shape[3])

    @property
    def pixels(self) -> int:
        """Number of pixels of an image, H · W."""
        return self.height * self.width

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return int(self.x.shape[1])

    def image(self, number: int) -> Given:
        """Return the arrays of one image alone, with its own seed."""
        one = slice(number, number + 1)
        masks = None if self.s is None else self.s[one]
        return replace(self, x=self.x[one], a=self.a[one], y=self.y[one], s=masks, seeds=self.seeds[one])


def given(explained: Explained, maps: Tensor) -> Given:
    """Copy to the host what a Quantus metric reads."""
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
    """Set ``owner.name`` to ``value`` inside the block; afterwards restore it, or remove it if it was absent."""
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
    """Start the global generators of numpy and torch at ``seed``, and restore their states afterwards."""
    state = np.random.get_state()  # noqa: NPY002 - Quantus draws from it
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@contextmanager
def old_numpy() -> Iterator[None]:
    """Give numpy the names that Quantus uses and newer versions lack: ``trapz`` until 2.3, ``NaN`` until 1.26."""
    from scipy.integrate import trapezoid

    with ExitStack() as stack:
        for name, value in (("trapz", trapezoid), ("NaN", np.nan)):
            if not hasattr(np, name):
                stack.enter_context(replaced(np, name, value))
        yield


@contextmanager
def quantus_runtime(seed: int) -> Iterator[None]:
    """Repair Quantus inside the block: old names of numpy, seeded draws, checks per image, no memory leaks.

    Two kinds of checks of Quantus are switched off: its assertions on maps look at the whole batch and build a Python
    set of every value, and its warning on unchanged images compares every image at every step. The bridge finds
    constant maps per image instead.
    """
    from quantus.helpers import asserts, utils, warn

    with ExitStack() as stack:
        stack.enter_context(old_numpy())
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
    """Do nothing, in place of a check that is made elsewhere."""


@cache
def _model_class() -> Any:
    """Return Quantus's wrapper of a torch module, but without unbounded caches and with :func:`shifted`."""
    from quantus.helpers.model import pytorch_model

    base: Any = pytorch_model.PyTorchModel

    class Model(base):  # type: ignore[misc]
        _get_last_softmax_layer_index = base._get_last_softmax_layer_index.__wrapped__
        _get_model_with_linear_top = base._get_model_with_linear_top.__wrapped__

        def add_mean_shift_to_first_layer(self, input_shift: float, _shape: tuple[int, ...]) -> nn.Module:
            return shifted(self.model, input_shift)

    return Model


def shifted(model: nn.Module, shift: float) -> nn.Module:
    """Return a copy of ``model`` that gives for x + ``shift`` what the model gives for x.

    The shift is undone in front of the first layer with weights, which needs no bias and is exact at padded borders.
    """
    moved = copy.deepcopy(model)
    first = next(layer for layer in moved.modules() if next(layer.parameters(recurse=False), None) is not None)
    first.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] - shift, *inputs[1:]))
    return moved


Explain = Callable[..., Array]


def explainer(explained: Explained) -> Explain:
    """Return the function that Quantus calls to explain any network and classes; it numbers versions from 1."""
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
    """Call a Quantus metric on copies inside :func:`quantus_runtime`; ``options`` are passed on to the call.

    ``model`` replaces the scene's network. With ``smoothed`` the metric explains the images itself through
    ``quantus.explain``, which is replaced by the explainer here.
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
