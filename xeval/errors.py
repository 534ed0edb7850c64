"""The errors that users are shown: each has a problem in one sentence, a remedy and an exit code.

The command line prints ``xeval: error[E200]: <problem> — <remedy>`` as the last line of stderr and leaves with
``exit_code``. Library users catch :class:`XevalError` or one of its kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class XevalError(Exception):
    """A problem in one sentence with its remedy; the command line shows both without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} — {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[XevalError], tuple[str, str]]:
        """Return how to rebuild the error from both parts, so that it can be pickled and sent between processes."""
        return type(self), (self.problem, self.remedy)

    @property
    def code(self) -> str:
        """The stable code that is printed with the message: ``E`` and three digits."""
        return code_of(self.exit_code)


class UsageError(XevalError):
    """An option, name, recipe key or configuration is wrong (exit 2)."""

    exit_code = 2


class DataError(XevalError):
    """Data or results are missing, corrupt or unfit for what was asked (exit 3)."""

    exit_code = 3


class CheckpointError(XevalError):
    """A checkpoint or archive is refused or invalid (exit 4)."""

    exit_code = 4


class ResourceError(XevalError):
    """Memory, disk space or time does not suffice (exit 5)."""

    exit_code = 5


class BusyError(XevalError):
    """Another process holds what was asked for (exit 6)."""

    exit_code = 6


class PartialError(XevalError):
    """The results have gaps, which ``--allow-partial`` accepts (exit 7)."""

    exit_code = 7


class InternalError(XevalError):
    """A metric or xeval itself has a defect; a file holds the traceback (exit 1)."""

    exit_code = 1


class Interrupted(XevalError):  # noqa: N818 - named after KeyboardInterrupt
    """SIGINT stopped the work at a point where everything finished was saved (exit 130)."""

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM stopped the work at a point where everything finished was saved (exit 143)."""

    exit_code = 143


def code_of(status: int) -> str:
    """Return the code that belongs to an exit status: E200 for 2, E130 for 130."""
    return f"E{status}00" if status < 10 else f"E{status}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not registered, with the nearest match and the list of known names."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", f"{hint}choose from: {', '.join(names)}")
