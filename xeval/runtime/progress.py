"""Report progress: with bars on a terminal, with plain lines elsewhere, and not at all for library users by default."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")


Weigh: TypeAlias = Callable[[Any], int]


def _one(_item: object) -> int:
    return 1


def duration(seconds: float) -> str:
    """Return a time in words that promise no more than an estimate holds: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Progress(Protocol):
    """The interface that long work reports to; the work itself never prints."""

    def say(self, text: str) -> None:
        """Report one line of news."""

    def track(self, items: Iterable[T], total: int, label: str, weigh: Weigh = _one) -> Iterator[T]:
        """Yield ``items`` and count what they weigh; ``total`` is the weight of all."""


class Silent:
    """A progress report that prints nothing."""

    def say(self, text: str) -> None:
        """Ignore the news."""

    def track(self, items: Iterable[T], total: int, label: str, weigh: Weigh = _one) -> Iterator[T]:  # noqa: ARG002
        """Yield ``items``."""
        yield from items


class Lines:
    """A progress report in plain lines on stderr, at most one line per ``every`` seconds and counter."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)

    def track(self, items: Iterable[T], total: int, label: str, weigh: Weigh = _one) -> Iterator[T]:
        """Yield ``items``, and print how many are done and how long the others will take at the same speed."""
        started = last = time.monotonic()
        done = 0
        for item in items:
            yield item
            done, now = done + weigh(item), time.monotonic()
            if now - last >= self.every and done < total:
                last = now
                left = duration((now - started) / done * (total - done))
                self.say(f"{label}: {done:,} of {total:,}, about {left} left")


class Bars(Lines):
    """A progress report with tqdm bars on a terminal."""

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def track(self, items: Iterable[T], total: int, label: str, weigh: Weigh = _one) -> Iterator[T]:
        """Yield ``items`` and show a bar."""
        from tqdm import tqdm

        with tqdm(total=total, desc=label, leave=False, dynamic_ncols=True) as bar:
            for item in items:
                yield item
                bar.update(weigh(item))


@contextmanager
def told_if_slow(progress: Progress, text: str, seconds: float = 1.0) -> Iterator[None]:
    """Say a line if what happens inside takes longer than that."""
    timer = threading.Timer(seconds, progress.say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def for_terminal() -> Progress:
    """Return bars if stderr is a terminal, and plain lines otherwise."""
    return Bars() if sys.stderr.isatty() else Lines()
