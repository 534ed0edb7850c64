"""Commands in forked children of a process that has everything imported, under strace: a start costs milliseconds.

``python -m tests.faults.forks`` is that process. It reads one JSON object a line (``arguments``, ``cwd``, ``strace``)
and answers each with one: ``status`` and ``modules``, the modules that the command imported on top.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from tests.commands import ROOT

ANY_TRACER = (0x59616D61, -1)  # prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY): Yama lets only a parent trace otherwise


class Forks:
    """The client: starts the forking process and asks it for commands."""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, _t: type[BaseException] | None, _v: BaseException | None, _tb: TracebackType | None) -> None:
        self.process.kill()  # it holds nothing that could be lost
        self.process.communicate()

    def run(self, arguments: Sequence[str], cwd: Path, strace: Sequence[str] = ()) -> tuple[int, str]:
        """Run ``xeval ARGUMENTS`` in ``cwd``; return the exit status, negative for a signal, and what stderr got."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"arguments": list(arguments), "cwd": str(cwd), "strace": list(strace)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return int(answer["status"]), str(answer["stderr"])


def main() -> None:
    """Answer requests until stdin ends."""
    _import_all(["xeval.cli.main"])
    for line in sys.stdin:
        answer = _answer(json.loads(line))
        _import_all(answer.pop("modules"))
        print(json.dumps(answer), flush=True)


def _import_all(modules: Sequence[str]) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # a module that the command itself tries and does without
            continue


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    errors, told = os.memfd_create("stderr"), os.memfd_create("modules")
    start, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        _child(request, errors, told, start)
    os.close(start)
    tracer = _attached(child, request["strace"]) if request["strace"] else None
    os.write(go, b"!")
    os.close(go)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if tracer is not None:
        tracer.communicate()
    modules = _content(told).split()
    return {"status": status, "stderr": _content(errors), "modules": modules}


def _content(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, size, 0).decode(errors="replace")
    os.close(descriptor)
    return text


def _attached(child: int, options: Sequence[str]) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(["strace", "-p", str(child), *options], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    assert b"attached" in tracer.stderr.readline()
    return tracer


def _child(request: dict[str, Any], errors: int, told: int, start: int) -> NoReturn:
    status, before = 99, set(sys.modules)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor, target in ((null, 0), (null, 1), (errors, 2)):
            os.dup2(descriptor, target)
        ctypes.CDLL(None).prctl(*ANY_TRACER)
        os.chdir(request["cwd"])
        os.read(start, 1)
        status = _command(request["arguments"])
        os.write(told, "\n".join(sorted(set(sys.modules) - before)).encode())
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def _command(arguments: Sequence[str]) -> int:
    from tests.faults.stand_ins import in_place
    from xeval.cli.main import main

    sys.argv = ["xeval", *arguments]
    with in_place():
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)


if __name__ == "__main__":
    main()
