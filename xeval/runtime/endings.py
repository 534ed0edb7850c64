"""Turn an error into what the user sees: an exit status, the problem in one sentence and what to do."""

from __future__ import annotations

import errno
import json
import tempfile
import traceback
from dataclasses import dataclass

from xeval.errors import XevalError, code_of

AGAIN = "run the same command again to go on"
FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)  # of a disk or a network mount
UNFIT = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True)
class Ending:
    """What the user sees when a command fails: its exit status, the problem in one sentence and what to do."""

    status: int
    problem: str
    remedy: str

    def text(self) -> str:
        """Return the last line of stderr as text for people."""
        return f"xeval: error[{code_of(self.status)}]: {self.problem} — {self.remedy}"

    def as_json(self) -> str:
        """Return the last line of stderr as JSON for machines."""
        content = {"code": code_of(self.status), "exit": self.status, "problem": self.problem, "remedy": self.remedy}
        return json.dumps({"error": content}, ensure_ascii=False)


def ending(error: BaseException) -> Ending:
    """Return the ending that belongs to an error; the traceback of a defect is written to a file."""
    if isinstance(error, XevalError):
        return Ending(error.exit_code, error.problem, error.remedy)
    if isinstance(error, MemoryError):
        return Ending(5, "out of memory", "use a smaller --batch-size or --limit")
    return _of_system(error) or _defect(error)


def first_line(error: BaseException | str, longest: int = 200) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]


def _of_system(error: BaseException) -> Ending | None:
    """Return the ending for an error of the operating system (permission, full disk, open files), else None."""
    if isinstance(error, PermissionError):
        return Ending(2, f"no permission for {error.filename}", "check its owner and mode, or choose another folder")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Ending(5, f"the disk is full ({error.filename or 'while writing'})", f"make room, then {AGAIN}")
    if isinstance(error, OSError) and error.errno in FAILING:
        return Ending(
            5,
            f"{error.filename or 'a file'} cannot be read or written ({error.strerror})",
            f"check the disk, then {AGAIN}",
        )
    if isinstance(error, OSError) and error.errno in UNFIT:
        return Ending(2, f"{error.filename or 'a path'} cannot be used ({error.strerror})", "choose another path")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Ending(5, "too many open files", "raise the limit: ulimit -n 1024")
    return None


def _defect(error: BaseException) -> Ending:
    shown = f"{type(error).__name__}: {error}"[:200]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="xeval-traceback-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        where = file.name
    except OSError:
        where = "no file: no temporary folder can be written"
    return Ending(1, f"internal error, {shown}", f"please report it with {where}")
