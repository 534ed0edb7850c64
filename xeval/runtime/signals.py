"""Handle SIGINT and SIGTERM: long work asks at safe points whether it should stop; a second signal stops it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from xeval.errors import Interrupted, Terminated

Stop = Callable[[], type[Interrupted] | None]
"""A function that is called at safe points; it returns the error to raise after saving, or None to go on."""


class Kill(BaseException):
    """The exception that SIGTERM raises where no safe point is waited for, as SIGINT raises KeyboardInterrupt."""


def never() -> None:
    """Return None: this is the :data:`Stop` of work that is not interrupted at safe points."""
    return


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise :class:`Kill`, so that files are closed and locks removed on the way out."""

    def kill(_number: int, _frame: FrameType | None) -> None:
        raise Kill

    with _handling({signal.SIGTERM: kill}):
        yield


@contextmanager
def graceful(*, tell: bool = True) -> Iterator[Stop]:
    """Yield a :data:`Stop` that the first SIGINT or SIGTERM sets; the second signal raises at once."""
    seen: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if seen:
            raise Kill if number == signal.SIGTERM else KeyboardInterrupt
        seen.append(number)
        if tell:
            print("stopping after the images in hand; once more to stop at once", file=sys.stderr, flush=True)

    def stop() -> type[Interrupted] | None:
        return None if not seen else Terminated if seen[0] == signal.SIGTERM else Interrupted

    with _handling({signal.SIGINT: remember, signal.SIGTERM: remember}):
        yield stop


def terminate(process: int) -> None:
    """Ask a process to end, as SIGTERM does; on Windows it has no say."""
    os.kill(process, signal.SIGTERM)


def runs_elsewhere(process: int) -> bool:
    """Return whether another live process has this number; return True where that cannot be found out."""
    if os.name != "posix" or process == os.getpid():
        return os.name != "posix"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _handling(handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Install signal handlers while the body runs; outside the main thread, where Python allows none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
