"""Progress at the edge: bars on a terminal, plain lines elsewhere, nothing for library users who ask for nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What long work reports to; the work itself never prints."""

    def say(self, text: str) -> None:
        """One line of news."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Pass ``items`` through, counting."""


class Silent:
    """No output."""

    def say(self, text: str) -> None:
        """Ignore the news."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:  # noqa: ARG002
        """Pass ``items`` through."""
        yield from items


class Lines:
    """Plain lines on stderr, at most one per ``every`` seconds and counter."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=sys.stderr, flush=True)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Pass ``items`` through and print how many are done."""
        last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            if time.monotonic() - last >= self.every:
                last = time.monotonic()
                self.say(f"{label}: {done} of {total}")


class Bars(Lines):
    """tqdm bars on a terminal."""

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Pass ``items`` through a bar."""
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False, dynamic_ncols=True)


def for_terminal() -> Progress:
    """Bars where stderr is a terminal, lines elsewhere."""
    return Bars() if sys.stderr.isatty() else Lines()
