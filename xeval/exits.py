"""How a command ends: the exit code of every kind of error and the one last line on stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from xeval import ranks
from xeval.errors import XevalError, code_of
from xeval.interrupts import Kill

JSON_ERRORS = "--json-errors"
AGAIN = "run the same command again to go on"
NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.1 prints the help itself


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


def split_flag(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without ``--json-errors``, which may stand anywhere before a ``--``, and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [argument for argument in arguments[:end] if argument != JSON_ERRORS]
    return [*before, *arguments[end:]], len(before) < end


def leave(error: BaseException, *, as_json: bool) -> NoReturn:
    """Print the last line for an error and exit with its status; a closed pipe is no error."""
    if isinstance(error, BrokenPipeError):
        _silence()
        sys.exit(0)
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, click.exceptions.Exit):  # --help and --version
        sys.exit(error.exit_code)
    if isinstance(error, NO_COMMAND) and not as_json:
        error.show()
    ended = ending(error)
    ranks.stay_silent(error, ended.status)
    plain = Ending(ended.status, _one_line(ended.problem), _one_line(ended.remedy))
    print(plain.as_json() if as_json else plain.text(), file=sys.stderr)
    ranks.end(plain.status)


def ending(error: BaseException) -> Ending:
    """What an error means for the user; a defect leaves its traceback in a file."""
    if isinstance(error, XevalError):
        return Ending(error.exit_code, error.problem, error.remedy)
    if isinstance(error, click.ClickException):
        problem = "no command was given" if isinstance(error, NO_COMMAND) else error.format_message().rstrip(".")
        return Ending(2, problem, f"see: {_command(error)} --help")
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Ending(130, "interrupted", AGAIN)
    if isinstance(error, Kill):
        return Ending(143, "terminated", AGAIN)
    if isinstance(error, MemoryError):
        return Ending(5, "out of memory", "use a smaller --batch-size or --limit")
    return _of_system(error) or _defect(error)


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


def _silence() -> None:
    """Nothing more can be printed: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _one_line(text: str) -> str:
    """Names come from outside: control characters do not reach the terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _command(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "xeval"
