"""Every mistake a user can make, as one sentence, what to do about it, and an exit code.

The command line prints ``xeval: error[E200]: <problem> — <remedy>`` as the last line of stderr and leaves with
``exit_code``. Library users catch :class:`XevalError` or one of its kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class XevalError(Exception):
    """A problem in one sentence and its remedy; never shown with a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} — {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[XevalError], tuple[str, str]]:
        """Both parts travel between processes."""
        return type(self), (self.problem, self.remedy)

    @property
    def code(self) -> str:
        """The stable code printed with the message, ``E`` and three digits."""
        return code_of(self.exit_code)


class UsageError(XevalError):
    """A wrong option, name, recipe key or configuration (exit 2)."""

    exit_code = 2


class DataError(XevalError):
    """Data or results that are missing, corrupt or unfit for what was asked (exit 3)."""

    exit_code = 3


class CheckpointError(XevalError):
    """A checkpoint or archive that is refused or invalid (exit 4)."""

    exit_code = 4


class ResourceError(XevalError):
    """Not enough memory, disk or time (exit 5)."""

    exit_code = 5


class BusyError(XevalError):
    """Another process holds what was asked for (exit 6)."""

    exit_code = 6


class PartialError(XevalError):
    """Results with gaps that ``--allow-partial`` accepts (exit 7)."""

    exit_code = 7


class InternalError(XevalError):
    """A defect of a metric or of xeval itself, with its traceback in a file (exit 1)."""

    exit_code = 1


class Interrupted(XevalError):  # noqa: N818 - as KeyboardInterrupt
    """Stopped by SIGINT at a point where everything finished was saved (exit 130)."""

    exit_code = 130


class Terminated(Interrupted):
    """Stopped by SIGTERM at a point where everything finished was saved (exit 143)."""

    exit_code = 143


def code_of(status: int) -> str:
    """The code that belongs to an exit status: E200 for 2, E130 for 130."""
    return f"E{status}00" if status < 10 else f"E{status}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody registered, with the nearest match and the list."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", f"{hint}choose from: {', '.join(names)}")
