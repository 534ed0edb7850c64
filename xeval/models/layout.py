"""Find out how the output of a layer is laid out, so that its maps can be read as N×K×h×w.

Convolutions give N×K×h×w, Swin and others N×h×w×K, vision transformers tokens N×T×K: extra tokens (class, register,
distillation) and a grid of patches. A wrong reading gives a map without an error, so shapes decide only where they
leave one reading; elsewhere the network itself is the evidence, watched on an example, and without evidence the layer
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.errors import UsageError
from xeval.models.classifier import Classifier
from xeval.models.watch import Call, calls, example, same
from xeval.runtime.endings import first_line

Grid: TypeAlias = Callable[[Tensor], Tensor]
"""A function that turns a layer's output, or the gradient of it, to N×K×h×w."""
EXTRA = 8  # tokens beside the patches, at most
NEAR = 1e-4  # of values that are the same but for rounding, relative to the largest
CHANNELS_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.Dropout2d, nn.Upsample,
)  # fmt: skip
ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip
REARRANGE = "give a function that slices, transposes and reshapes the layer's output to N×K×h×w"
NAME = "name another layer with --layer, or use a gradient explainer"


Patches: TypeAlias = tuple[int, int, int]
"""The rows and columns of a grid of patches, and the place of the first of them among the tokens."""


def grid_of(model: nn.Module, module: nn.Module, images: Tensor, output: Tensor) -> Grid:
    """Return how to turn the ``output`` of ``module``, a part of ``model``, for these ``images`` to N×K×h×w.

    A function that was given by :func:`reshaped_by` is taken as it is, if it only rearranges.

    Raises:
        UsageError: it is no feature map and no tokens, or nothing tells how it is laid out.
    """
    given = _GIVEN.get()
    if given is not None:
        _require_rearrangement(given, output)
        return given
    return Evidence(model, images).grid(module, output)


@dataclass(frozen=True)
class Evidence:
    """What a network shows of its layout on an example of the size of ``images``, from as few passes as are needed."""

    model: nn.Module
    images: Tensor
    _embedded: dict[int, set[Patches]] = field(default_factory=dict)

    @cached_property
    def seen(self) -> list[Call]:
        """The calls of one pass."""
        return calls(self.model, example(self.images))

    def grid(self, module: nn.Module, output: Tensor) -> Grid:
        """Return how the output of a module is turned to N×K×h×w; see :func:`grid_of`."""
        if output.ndim not in (3, 4) or len(output) != len(self.images):
            raise UsageError(
                "the explained layer gives no N×K×h×w feature map", "name a convolutional layer with --layer"
            )
        if isinstance(self.model, Classifier):
            return _as_it_is
        if _is_of_attention(self.seen, module):
            raise UsageError("the explained layer gives the weights of attention, no feature map", NAME)
        if output.ndim == 3:
            return taken(self.patches(module, output))
        return _turned if _channels_are_last(self, module, output) else _as_it_is

    def patches(self, module: nn.Module, output: Tensor) -> Patches:
        """Return which of the tokens N×T×K that a module gives are a grid of patches."""
        tokens = output.shape[1]
        candidates = list(_grids(tokens, self.images))
        found = self.embedded(tokens)
        whole = [(height, width, 0) for height, width in candidates if height * width == tokens]
        if not found and len(candidates) == len(whole) == 1 and _features_are_last(self.seen, module):
            found = set(whole)
        if len(found) != 1 or output.shape[2] == 1:
            raise UsageError(
                f"the explained layer gives {tokens}×{output.shape[2]} numbers an image, and nothing tells which of "
                "them are a grid of patches",
                NAME,
            )
        return next(iter(found))

    def embedded(self, tokens: int) -> set[Patches]:
        """Return the grids of patches that so many tokens hold, as far as it is seen before they exchange anything."""
        if tokens not in self._embedded:
            starts = {grid: _start_of(self.model, self.images, tokens, grid) for grid in _grids(tokens, self.images)}
            self._embedded[tokens] = {(*grid, start) for grid, start in starts.items() if start is not None}
        return self._embedded[tokens]


# ---- a function that is given in place of evidence


_GIVEN: ContextVar[Grid | None] = ContextVar("reshape", default=None)


@contextmanager
def reshaped_by(reshape: Grid | None, layer: str | None) -> Iterator[None]:
    """Turn the output of the named layer by a given function in the body, in place of evidence; None changes nothing.

    Raises:
        UsageError: a function without the layer that it is for.
    """
    if reshape is not None and not layer:
        raise UsageError("reshape= is for one layer, and none is named", "name it with layer=")
    token = _GIVEN.set(reshape)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def is_reshaped() -> bool:
    """Return whether a function was given in place of evidence."""
    return _GIVEN.get() is not None


def places_of(grid: Grid, output: Tensor) -> Tensor:
    """Return where in the flat numbers of an image each value of the N×K×h×w maps comes from, int64 K×h×w."""
    return grid(_numbered(output)[:1])[0]


def _numbered(output: Tensor) -> Tensor:
    return torch.arange(output.numel(), device=output.device).reshape(output.shape)


def _require_rearrangement(reshape: Grid, output: Tensor) -> None:
    """Raise UsageError where a given function fails, gives another shape, or does more than to choose and rearrange."""
    numbers = _numbered(output)
    try:
        found = reshape(numbers)
    except Exception as error:  # a user's function can raise anything
        raise UsageError(f"reshape= fails on {_shape(output)}: {first_line(error, 80)}", REARRANGE) from None
    if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != len(output):
        raise UsageError(f"reshape= turns {_shape(output)} to {_shape(found)}, not to N×K×h×w", REARRANGE)
    own = found.flatten(1) - numbers.flatten(1)[:, :1]
    if found.dtype != numbers.dtype or bool((own != own[:1]).any()) or not _distinct(own[0], numbers[0].numel()):
        raise UsageError("reshape= does more than to choose and rearrange the numbers of an image", REARRANGE)


def _distinct(places: Tensor, count: int) -> bool:
    inside = bool(((places >= 0) & (places < count)).all())
    return inside and bool((places.sort().values.diff() > 0).all())


def _shape(output: object) -> str:
    return "×".join(map(str, output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"


# ---- readings


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _turned(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def taken(patches: Patches) -> Grid:
    """Return how a grid of patches is taken from tokens N×T×K."""
    height, width, start = patches

    def grid(one: Tensor) -> Tensor:
        cells = one[:, start : start + height * width].transpose(1, 2)
        return cells.reshape(len(one), -1, height, width)

    return grid


def fits(grid: Sequence[int], images: Tensor) -> bool:
    """Return whether a grid (rows, columns) has the aspect ratio of the images, as far as whole cells allow."""
    height, width = grid
    full_height, full_width = images.shape[-2:]
    return abs(height * full_width - width * full_height) < max(full_height, full_width)


# ---- feature maps: which axis holds the channels


def _channels_are_last(evidence: Evidence, module: nn.Module, output: Tensor) -> bool:
    """Return whether a map lies N×h×w×K: by its shape where only one reading fits the images, else by evidence."""
    first, last = fits(output.shape[2:], evidence.images), fits(output.shape[1:3], evidence.images)
    if first != last:
        return last
    axes = set(_channel_axes(evidence.seen, module))
    if len(axes) != 1:
        raise UsageError(
            f"the explained layer gives maps of {'×'.join(map(str, output.shape[1:]))}, and nothing around it tells "
            "which axis holds the channels",
            NAME,
        )
    return axes == {3}


def _channel_axes(seen: list[Call], module: nn.Module) -> Iterator[int]:
    """Yield the axis of the channels of a module's last output, once for each piece of evidence."""
    place = max(number for number, call in enumerate(seen) if call.module is module)
    output = seen[place].made
    for tensor, axis in _known_axes(seen):
        found = _same_axis(output, tensor, axis)
        if found is not None:
            yield found
    for tensor in chain.from_iterable(call.given for call in seen[place + 1 :]):
        if tensor.ndim == 2:
            yield from (axis for axis, sides in ((1, (2, 3)), (3, (1, 2))) if _same(output.mean(sides), tensor))


def _known_axes(seen: list[Call]) -> list[tuple[Tensor, int]]:
    """Return tensors of which a module says where the channels are; activations pass that on, both ways."""
    known = [(tensor, axis) for call in seen for tensor, axis in _said(call)]
    for call in [*seen, *reversed(seen)]:
        if isinstance(call.module, ELEMENTWISE) and call.given and call.given[0].shape == call.made.shape:
            for one, other in ((call.given[0], call.made), (call.made, call.given[0])):
                found = {_same_axis(one, tensor, axis) for tensor, axis in known} - {None}
                known += [(other, axis) for axis in found if axis is not None and not _told(known, other)]
    return known


def _told(known: list[tuple[Tensor, int]], tensor: Tensor) -> bool:
    return any(one is tensor for one, _ in known)


def _said(call: Call) -> Iterator[tuple[Tensor, int]]:
    """Yield the tensors of a call whose channel axis the kind of the module tells."""
    axis = _axis_of(call)
    if axis is not None:
        yield from ((tensor, axis % 4) for tensor in (*call.given[:1], call.made) if tensor.ndim == 4)


def _axis_of(call: Call) -> int | None:
    if not call.given:
        return None
    if isinstance(call.module, CHANNELS_FIRST):
        return 1
    if isinstance(call.module, nn.Linear):
        return -1
    if isinstance(call.module, nn.LayerNorm):
        return next((axis for axis in (-1, 1) if _normalizes(call.module, call.given[0], call.made, axis)), None)
    return None


def _normalizes(norm: nn.LayerNorm, given: Tensor, made: Tensor, axis: int) -> bool:
    """Return whether a LayerNorm works along one axis; there are subclasses for either."""
    turned = given.movedim(axis, -1)
    if tuple(norm.normalized_shape) != turned.shape[-1:] or made.shape != given.shape:
        return False
    wanted = F.layer_norm(turned, turned.shape[-1:], norm.weight, norm.bias, norm.eps)
    return _same(wanted, made.movedim(axis, -1))


def _same_axis(tensor: Tensor, other: Tensor, axis: int) -> int | None:
    """Return which axis of ``tensor`` is ``axis`` of ``other``, where both are views of the same numbers."""
    if tensor.ndim != 4 or tensor.data_ptr() != other.data_ptr() or tensor.numel() != other.numel():
        return None
    wanted = (other.stride(axis), other.shape[axis])
    places = [place for place in (1, 2, 3) if (tensor.stride(place), tensor.shape[place]) == wanted]
    return places[0] if len(places) == 1 else None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= NEAR * a.abs().max())


# ---- tokens: which of them are the patches of which grid
#
# Where patches lie is seen by changing the image in one cell at a time. Before tokens exchange anything, the token that
# changes most is the one of the cell. Where no such tokens are seen (windows, merging), a single grid without extra
# tokens is enough if the last axis is known to hold the channels.


def _grids(tokens: int, images: Tensor) -> Iterator[tuple[int, int]]:
    """Yield every grid of the images' aspect ratio that leaves at most 8 tokens over."""
    for cells in range(max(2, tokens - EXTRA), tokens + 1):
        yield from (
            (height, cells // height)
            for height in range(1, cells + 1)
            if cells % height == 0 and fits((height, cells // height), images)
        )


def _start_of(model: nn.Module, images: Tensor, tokens: int, grid: tuple[int, int]) -> int | None:
    """Return the place of the first patch if the tokens lie row by row in this grid, else None."""
    height, width = grid
    cells = sorted({(0, 0), (0, min(1, width - 1)), (min(1, height - 1), 0), (height - 1, width - 1)})
    first = _first_tokens(calls(model, _changed(images, grid, cells)), tokens, 1 + len(cells))
    if first is None:
        return None
    change = (first[1:] - first[:1]).abs().flatten(2).sum(2)
    places = change.argmax(1).tolist()
    start = places[0]
    wanted = [start + row * width + column for row, column in cells]
    fitting = bool((change.amax(1) > 0).all()) and start + height * width <= tokens
    return start if fitting and places == wanted else None


def _first_tokens(seen: list[Call], tokens: int, images: int) -> Tensor | None:
    """Return the first tensor N×T×K that any module is given or gives."""
    every = chain.from_iterable((*call.given, call.made) for call in seen)
    return next((one for one in every if one.ndim == 3 and one.shape[:2] == (images, tokens)), None)


def _changed(images: Tensor, grid: tuple[int, int], cells: list[tuple[int, int]]) -> Tensor:
    """Return the example, and behind it once for every cell with other pixels in that cell of the grid."""
    pixels = example(images)
    several = pixels.repeat(1 + len(cells), 1, 1, 1)
    (full_height, full_width), (height, width) = images.shape[-2:], grid
    for number, (row, column) in enumerate(cells, 1):
        rows = slice(row * full_height // height, (row + 1) * full_height // height)
        columns = slice(column * full_width // width, (column + 1) * full_width // width)
        several[number, :, rows, columns] = pixels.flip(-1, -2)[0, :, rows, columns]
    return several


def _features_are_last(seen: list[Call], module: nn.Module) -> bool:
    """Return whether a linear layer or a LayerNorm, which work on the last axis, gives or takes a layer's output."""
    output = next(call.made for call in reversed(seen) if call.module is module)
    return any(
        tensor.ndim == 3 and same(tensor, output)
        for call in seen
        if _axis_of(call) == -1
        for tensor in (*call.given[:1], call.made)
    )


# ---- attention: squares and stripes of tokens that look like maps


def _is_of_attention(seen: list[Call], module: nn.Module) -> bool:
    """Return whether a module gives weights of attention, or what heads make of tokens.

    Such weights are squares whose rows add up to 1; and no side of a feature map counts tokens that were there before.
    """
    place = max(number for number, call in enumerate(seen) if call.module is module)
    made = seen[place].made
    given = chain.from_iterable((*call.given, call.made) for call in seen[:place])
    tokens = {one.shape[1] for one in given if one.ndim == 3 and len(one) == len(made)}
    sides = {made.shape[1:3], made.shape[2:]} if made.ndim == 4 else set()
    return _are_shares(made) or any(side[0] == side[1] and side[0] in tokens for side in sides)


def _are_shares(made: Tensor) -> bool:
    square = made.shape[-1] == made.shape[-2] > 1
    return square and bool((made >= 0).all()) and bool(((made.sum(-1) - 1).abs() < NEAR).all())
