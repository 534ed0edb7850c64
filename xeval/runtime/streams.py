"""Keeps standard streams that are closed, full or of another encoding from stopping a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Open the streams that were closed on the null device, and ignore a stderr that can no longer be written.

    A file that takes the number of a closed stream would receive what is printed. Progress that cannot be shown must
    not stop the work, and characters that the encoding lacks are escaped.
    """
    before = sys.stdout, sys.stderr
    for number in (0, 1, 2):
        _open_if_closed(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = cast("TextIO", Lasting(sys.stderr or os.fdopen(2, "w", closefd=False)))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # a stream whose file has been exchanged, or one of another kind
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class Lasting:
    """A text stream on stderr that goes to the null device from its first failure on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as far as that is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(2)
            return len(text)

    def flush(self) -> None:
        """Flush as far as that is possible."""
        try:
            self._stream.flush()
        except OSError:
            silence(2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(number: int) -> None:
    """Point a stream at the null device, so that not even the interpreter's last flush can fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if null != number:
            os.dup2(null, number)
            os.close(null)
