"""Define what an explainer is, and the two registries: real explainers and controls.

An explainer is a function ``(model, layer, images, targets) -> maps``. A control either is drawn without a model,
``(images, reference, keys, draw) -> maps``, or is derived from the reference explainer. Maps are N×1×h×w on the
explainer's own grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, TypeAlias

from torch import Tensor, nn

from xeval.errors import UsageError
from xeval.explainers.precomputed import Precomputed
from xeval.registry import Registry

Explain: TypeAlias = Callable[[nn.Module, str, Tensor, Tensor], Tensor]
Draw: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Units: TypeAlias = Literal["gradient", "location"]


@dataclass(frozen=True)
class Explainer:
    """An attribution method, as :func:`explainer` registers it.

    ``units`` says what a value means. ``gradient`` is the change of the score per unit of input; ``location`` is how
    much a place matters. The metrics of the infidelity family need to know which. ``maps`` are those that were made
    elsewhere: they are looked up, and ``explain`` is never called.
    """

    name: str
    explain: Explain
    units: Units
    citation: str
    maps: Precomputed | None = None


@dataclass(frozen=True)
class Control:
    """A reference row, which shows what a map with no knowledge of the model (or the wrong knowledge) would score.

    ``draws`` maps are scored and their scores averaged. ``symmetric`` says that the reversed ranking has the same
    distribution, so that one set of passes serves the keep curve and the deletion curve. A control without ``draw`` is
    derived from the reference explainer by the scorer: its map reversed, of another image, or of another network.
    """

    name: str
    about: str
    draw: Draw | None = None
    draws: int = 1
    symmetric: bool = False


WITHOUT_GRADIENT = ("does not require grad", "not have been used in the graph")
"""What torch says of a score that does not depend on what it is derived by."""
EXPLAINERS: Registry[Explainer] = Registry("explainer")
CONTROLS: Registry[Control] = Registry("control", beside=EXPLAINERS)


def explainer(name: str, *, units: Units, citation: str) -> Callable[[Explain], Explain]:
    """Register an attribution method under ``name``."""

    def decorate(function: Explain) -> Explain:
        EXPLAINERS.add(name, Explainer(name, _with_gradients_told(function), units, citation), function)
        return function

    return decorate


def _with_gradients_told(function: Explain) -> Explain:
    """Return an explainer that raises UsageError where a network keeps back the gradients that it asks for."""

    @wraps(function)
    def explain(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
        try:
            return function(model, layer, images, targets)
        except RuntimeError as error:
            if not any(words in str(error) for words in WITHOUT_GRADIENT):
                raise
            raise UsageError(
                "the score has no gradient by the images (no_grad, inference_mode or detach in the forward pass?)",
                "let the network compute gradients, or use occlusion or score-cam",
            ) from error

    return explain


def control(name: str, *, draws: int = 1, symmetric: bool = False) -> Callable[[Draw], Draw]:
    """Register a control that is drawn under ``name``; the first line of its docstring describes it."""

    def decorate(function: Draw) -> Draw:
        CONTROLS.add(name, Control(name, _first_line(function), function, draws, symmetric), function)
        return function

    return decorate


def derived_control(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a control under ``name`` that the scorer derives from the reference explainer.

    It decorates a function that does nothing, whose first docstring line describes the control. Only the scorer can
    make the map, because only the scorer has the split and the network.
    """

    def decorate(function: Callable[[], None]) -> Callable[[], None]:
        CONTROLS.add(name, Control(name, _first_line(function)), function)
        return function

    return decorate


def _first_line(function: Callable[..., object]) -> str:
    return (function.__doc__ or function.__name__).strip().splitlines()[0]
