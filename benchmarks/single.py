"""Each metric on its own against its peer: every comparison of ``xeval verify``, timed.

Both sides explain, perturb and pass for themselves; the peer gets xeval's draws, whose making is part of its time as
drawing is part of xeval's. Quantus runs without its checks of whole batches, which makes it faster than stock. What
``xeval verify`` compares in float64 is timed in float64 on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.pairs import agree, alternate, counted
from benchmarks.rows import Claim, Options, Target, main
from benchmarks.subjects import device_of, engine_of, network, pictures, scene_of, sized
from xeval.explainers import EXPLAINERS
from xeval.verify.check import Check, Side, Subject
from xeval.verify.run import checks


def subject_of(arch: str, options: Options) -> Subject:
    """Return a scene with a square object in every image, explained with Grad-CAM."""
    device = device_of(options)
    model, layer = network(arch, device)
    images = pictures(options.pick("images", 16, 2), device)
    masks = torch.zeros(len(images), 1, *images.shape[-2:], dtype=torch.bool, device=device)
    masks[..., 8:24, 8:24] = True
    engine = engine_of(model, sized(options, model, images), images)
    return Subject(scene_of(engine, images, masks=masks), layer, EXPLAINERS["grad-cam"])


def peers() -> list[Check]:
    """Return the comparisons with installed libraries, without those with loops of our own."""
    return [check for check in checks() if check.package and find_spec(check.package)]


def row(check: Check, subject: Subject, arch: str, rounds: int) -> Claim:
    """Compare and time one metric; xeval comes first, because it makes the draws that the peer is given."""
    subject.exact.model  # noqa: B018 - makes the copy before anything is counted
    (own, own_passes), (peer, peer_passes) = (_counted(side, subject) for side in (check.native, check.other))
    checked = agree(check.name, peer, own, check.tolerance)
    pair = alternate(
        partial(check.other, subject),
        partial(check.native, subject),
        rounds,
        passes={"peer": peer_passes, "own": own_passes},
    )
    claim = f"{check.name} against {check.oracle}, {arch}, {len(subject.images)} images"
    return pair.row(claim, Target("at least", 1.0), checked)


def _counted(side: Side, subject: Subject) -> tuple[Tensor, int]:
    """Return the result of one side, and its passes through the network and its float64 copy."""
    with counted(subject.model) as single, counted(subject.exact.model) as double:
        found = side(subject)
    return found, single.images + double.images


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for each comparison and architecture."""
    for arch in options.networks(("cnn-tiny", "resnet-small")):
        subject = subject_of(arch, options)
        for check in peers():
            yield row(check, subject, arch, options.pick("rounds", 3, 1))


if __name__ == "__main__":
    main("single", __doc__, measure)
