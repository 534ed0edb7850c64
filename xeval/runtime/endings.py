"""What an error means for the user: an exit status, the problem in one sentence and what to do."""

from __future__ import annotations

import errno
import json
import tempfile
import traceback
from dataclasses import dataclass

from xeval.errors import XevalError, code_of

AGAIN = "run the same command again to go on"


@dataclass(frozen=True)
class Ending:
    """Exit status, the problem in one sentence and what to do."""

    status: int
    problem: str
    remedy: str

    def text(self) -> str:
        """The last line of stderr for people."""
        return f"xeval: error[{code_of(self.status)}]: {self.problem} — {self.remedy}"

    def as_json(self) -> str:
        """The last line of stderr for machines."""
        content = {"code": code_of(self.status), "exit": self.status, "problem": self.problem, "remedy": self.remedy}
        return json.dumps({"error": content}, ensure_ascii=False)


def ending(error: BaseException) -> Ending:
    """What an error means for the user; a defect leaves its traceback in a file."""
    if isinstance(error, XevalError):
        return Ending(error.exit_code, error.problem, error.remedy)
    if isinstance(error, MemoryError):
        return Ending(5, "out of memory", "use a smaller --batch-size or --limit")
    return _of_system(error) or _defect(error)


def first_line(error: BaseException | str, longest: int = 200) -> str:
    """What an error says in one line, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]


def _of_system(error: BaseException) -> Ending | None:
    """What the operating system refused."""
    if isinstance(error, PermissionError):
        return Ending(2, f"no permission for {error.filename}", "check its owner and mode, or choose another folder")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Ending(5, f"the disk is full ({error.filename or 'while writing'})", f"make room, then {AGAIN}")
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
