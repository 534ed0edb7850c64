"""Ends a command: with the exit code of the error's kind and one last line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from xeval.runtime import distributed
from xeval.runtime.endings import AGAIN, Ending, ending
from xeval.runtime.signals import Kill
from xeval.runtime.streams import silence

JSON_ERRORS = "--json-errors"
NO_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # absent in click 8.1, which prints the help


def split_flag(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments without ``--json-errors``, where it stands before a ``--``, and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [argument for argument in arguments[:end] if argument != JSON_ERRORS]
    return [*before, *arguments[end:]], len(before) < end


def leave(error: BaseException, *, as_json: bool) -> NoReturn:
    """Print the last line for an error and exit with its status; a closed pipe counts as success."""
    if isinstance(error, BrokenPipeError):
        silence(1)
        sys.exit(0)
    _flush()
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, click.exceptions.Exit):  # --help and --version
        sys.exit(error.exit_code)
    if isinstance(error, NO_COMMAND) and not as_json:
        error.show()
    ended = _of_command(error) or ending(error)
    distributed.stay_silent(error, ended.status)
    plain = Ending(ended.status, _one_line(ended.problem), _one_line(ended.remedy))
    print(plain.as_json() if as_json else plain.text(), file=sys.stderr)
    distributed.end(plain.status)


def _of_command(error: BaseException) -> Ending | None:
    """Return the ending for what click and the signals raise; None for every other error."""
    if isinstance(error, click.ClickException):
        problem = "no command was given" if isinstance(error, NO_COMMAND) else error.format_message().rstrip(".")
        return Ending(2, problem, f"see: {_command(error)} --help")
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Ending(130, "interrupted", AGAIN)
    if isinstance(error, Kill):
        return Ending(143, "terminated", AGAIN)
    return None


def _flush() -> None:
    """Flush stdout; give it up where that fails, as the interpreter's last flush would fail too."""
    try:
        sys.stdout.flush()
    except OSError:
        silence(1)


def _one_line(text: str) -> str:
    """Join the text to one line and remove control characters: names from outside must not control the terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _command(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "xeval"
