"""Makes what is measured: networks with seeded random weights, which do not affect the speed, and seeded images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rows import Options
from xeval.engine import Engine, pick_device
from xeval.engine.batch_size import probe_batch_size
from xeval.engine.folding import Network, compiled, network_of
from xeval.engine.timing import copies
from xeval.metrics import Scene
from xeval.models import ModelSpec, build, last_conv_stage
from xeval.perturb.draws import image_keys

SIDE, CLASSES, QUICK_BATCH = 32, 100, 128


def network(arch: str, device: torch.device, *, side: int = SIDE, classes: int = CLASSES) -> tuple[nn.Module, str]:
    """Return a network in evaluation mode and its last convolutional stage."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(ModelSpec(arch=arch, num_classes=classes, in_channels=3, image_size=side)).eval().to(device)
    return model, last_conv_stage(model, torch.zeros(1, 3, side, side, device=device))


def pictures(count: int, device: torch.device, *, side: int = SIDE) -> Tensor:
    """Return normalised images N×3×side×side: noise, smoothed so that maps differ from place to place."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.avg_pool2d(noise, 5, 1, 2)
    return (smooth / smooth.std()).to(device)


def sized(options: Options, model: nn.Module, images: Tensor) -> Options:
    """Return the options with the batch size that scoring would find for this network and these images."""
    if options.batch_size is not None:
        return options
    network = network_of(model, images[:1])
    size = QUICK_BATCH if options.quick else probe_batch_size(network, images[:1])
    found = replace(options, batch_size=size)
    engine_of(model, found, images)  # fills the cache of networks before anything is counted or timed
    return found


def engine_of(model: nn.Module, options: Options, images: Tensor) -> Engine:
    """Return xeval's engine as scoring builds it, in the requested mode and batch size (see :func:`sized`)."""
    size = options.batch_size or QUICK_BATCH
    return Engine(
        model, network=_network(model, options.compile, size, images.shape[1:], images.dtype), batch_size=size
    )


@cache
def _network(model: nn.Module, fast: bool, size: int, shape: tuple[int, ...], dtype: torch.dtype) -> Network:
    """Return the network of the plain passes, which is made once for each model, as it is once per run."""
    example = torch.zeros(1, *shape, dtype=dtype, device=next(model.parameters()).device)
    found = network_of(model, example)
    return compiled(found, copies(example, size)) if fast else found


def scene_of(engine: Engine, images: Tensor, *, fill: Tensor | None = None, **about: Any) -> Scene:
    """Return the scene of normalised images.

    It has the predicted classes, the mean as fill, and one unit of pixel value = one normalised unit.
    """
    return Scene.of(
        engine,
        images,
        image_keys([str(number) for number in range(len(images))]).to(images.device),
        fill=fill,
        pixel=images.new_ones(images.shape[1], 1, 1),
        mean=images.new_zeros(images.shape[1], 1, 1),
        **about,
    )


def device_of(options: Options) -> torch.device:
    """Return the device that was asked for."""
    return pick_device(options.device)
