"""Report progress: with bars on a terminal, with plain lines elsewhere, and not at all for library users by default."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """The interface that long work reports to; the work itself never prints."""

    def say(self, text: str) -> None:
        """Report one line of news."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yield ``items`` and count them."""


class Silent:
    """A progress report that prints nothing."""

    def say(self, text: str) -> None:
        """Ignore the news."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:  # noqa: ARG002
        """Yield ``items``."""
        yield from items


class Lines:
    """A progress report in plain lines on stderr, at most one line per ``every`` seconds and counter."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yield ``items`` and print how many are done."""
        last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            if time.monotonic() - last >= self.every:
                last = time.monotonic()
                self.say(f"{label}: {done} of {total}")


class Bars(Lines):
    """A progress report with tqdm bars on a terminal."""

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yield ``items`` and show a bar."""
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False, dynamic_ncols=True)


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
