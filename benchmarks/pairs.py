"""Times two ways of computing the same thing in turn (A B A B …), so that a drift of the machine affects both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from benchmarks.rows import Claim, DisagreementError, Target, row_of
from xeval.engine.folding import Network
from xeval.models import Classifier

Work = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """The seconds of each round of a peer and of xeval, and the forward passes of one round of each.

    Processor time is kept with wall time, because it distinguishes a slow machine from a busy one.
    """

    peer_seconds: tuple[float, ...]
    own_seconds: tuple[float, ...]
    peer_passes: int = 0
    own_passes: int = 0
    peer_cpu_seconds: tuple[float, ...] = ()
    own_cpu_seconds: tuple[float, ...] = ()

    @property
    def ratios(self) -> list[float]:
        """How many times faster xeval was, round by round."""
        return [peer / own for peer, own in zip(self.peer_seconds, self.own_seconds, strict=True)]

    def row(self, claim: str, target: Target | None, checked: str, note: str = "") -> Claim:
        """Return the median of the rounds' ratios as a row, with everything it was computed from."""
        passes = {"peer": self.peer_passes, "own": self.own_passes} if self.peer_passes or self.own_passes else {}
        told = [f"the counted passes alone give {self.peer_passes / self.own_passes:.2f}×"] if self.own_passes else []
        if sum(self.own_cpu_seconds):
            told.append(f"processor time {sum(self.peer_cpu_seconds) / sum(self.own_cpu_seconds):.2f}×")
        return row_of(
            claim,
            "×",
            self.ratios,
            target,
            passes=passes,
            checked=checked,
            note="; ".join([*told, *([note] if note else [])]),
            measurements={**asdict(self), "ratios": self.ratios},
        )


@dataclass
class Count:
    """Counts forward passes of single images through a network."""

    images: int = 0


def trunk(model: nn.Module) -> nn.Module:
    """Return the part of a network that every pass goes through; closed-form maps never reach a classifier's head."""
    return model.backbone if isinstance(model, Classifier) else model


@contextmanager
def watching(model: nn.Module, see: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Show ``see`` the network and the images of every pass inside, through the model or through a folded copy of it.

    Copies that are made inside, such as the one with fresh weights, are shown as separate networks.
    """
    plain = Network.__call__

    def call(network: Network, images: Tensor, *, whole: bool = False) -> Tensor:
        if network.folded:  # otherwise the hook on the model sees the images
            see(trunk(model), images)
        return plain(network, images, whole=whole)

    def seen(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if isinstance(inputs[0], Tensor):  # following the forward pass symbolically is no pass
            see(module, inputs[0])

    handle = trunk(model).register_forward_pre_hook(seen)
    Network.__call__ = call  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Network.__call__ = plain  # type: ignore[method-assign]
        handle.remove()


@contextmanager
def counted(model: nn.Module) -> Iterator[Count]:
    """Count all forward passes inside the block."""
    count = Count()

    def add(_module: nn.Module, images: Tensor) -> None:
        count.images += len(images)

    with watching(model, add):
        yield count


def count_passes(model: nn.Module | None, work: Work) -> int:
    """Return the forward passes of single images that ``work`` makes; 0 without a network."""
    if model is None:
        work()
        return 0
    with counted(model) as count:
        work()
    return count.images


def alternate(
    peer: Work, own: Work, rounds: int, model: nn.Module | None = None, *, passes: Mapping[str, int] | None = None
) -> Pair:
    """Time ``peer`` and ``own`` in turn, after one warm-up of each that counts the passes through ``model``.

    Where the ``passes`` are known from a comparison that warmed both sides up, they are given instead.
    """
    if passes is None:
        passes = {side: count_passes(model, work) for side, work in (("peer", peer), ("own", own))}
    timed = [(*wall_and_cpu(peer), *wall_and_cpu(own)) for _ in range(rounds)]
    peer_seconds, peer_cpu, own_seconds, own_cpu = zip(*timed, strict=True)
    return Pair(peer_seconds, own_seconds, passes["peer"], passes["own"], peer_cpu, own_cpu)


def wall_and_cpu(work: Work) -> tuple[float, float]:
    """Return the wall time of ``work``, and the processor time of all threads."""
    start = time.process_time()
    wall = seconds(work)
    return wall, time.process_time() - start


def seconds(work: Work) -> float:
    """Return the wall time of ``work``, including everything it has queued on the accelerator."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def difference(peer: Tensor, own: Tensor) -> float:
    """Return the largest |a − b| / max(1, |b|).

    It is infinite where shapes differ, or where one side has a number and the other has none.
    """
    peer, own = peer.detach().cpu().double(), own.detach().cpu().double()
    if peer.shape != own.shape or not torch.equal(peer.isnan(), own.isnan()):
        return float("inf")
    apart = ((own - peer).abs() / peer.abs().clamp_min(1)).nan_to_num(0)
    return float(apart.max()) if apart.numel() else 0.0


def agree(what: str, peer: Tensor, own: Tensor, tolerance: float) -> str:
    """Return a sentence on how closely both sides agree; raise :class:`DisagreementError` beyond the tolerance."""
    found = difference(peer, own)
    if not found <= tolerance:
        raise DisagreementError(f"{what}: the sides differ by {found:.2g}, allowed is {tolerance:g}: nothing to time")
    return f"{what} within {tolerance:g} (largest difference {found:.1g})"
