"""Two ways of computing the same thing, timed in turn: A B A B …, so that a drift of the machine meets both."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Pair:
    """Seconds of each round of a peer and of xeval; ``ratio`` is the median of the rounds' own ratios."""

    claim: str
    peer_seconds: tuple[float, ...]
    own_seconds: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """How many times faster xeval was, round by round."""
        return [peer / own for peer, own in zip(self.peer_seconds, self.own_seconds, strict=True)]

    def as_json(self) -> str:
        """One line: the claim, every measurement, the median ratio with its spread, and the machine."""
        found = {
            **asdict(self),
            "ratio": median(self.ratios),
            "spread": [min(self.ratios), max(self.ratios)],
            "machine": {
                "platform": platform.platform(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            },
        }
        return json.dumps(found)


def alternate(claim: str, peer: Callable[[], object], own: Callable[[], object], rounds: int = 5) -> Pair:
    """Time ``peer`` and ``own`` in turn after one warm-up of each."""
    peer(), own()
    seconds = [(_seconds(peer), _seconds(own)) for _ in range(rounds)]
    return Pair(claim, tuple(a for a, _ in seconds), tuple(b for _, b in seconds))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
