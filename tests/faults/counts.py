"""``python -m tests.faults.counts [COMMAND ...]`` tries every fault at every point of the commands, all of them by
default, and writes how many there were and how many were survived into docs/reliability.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.forks import Forks
from tests.faults.injected import commands
from tests.faults.injector import Trial, every, wrong
from tests.faults.matrix import PAGE

ROW = re.compile(
    r"^\| `xeval (?P<name>[^`]+)` \| (?P<tried>[\d,]+|–) \| (?P<survived>[\d,]+|–) \| (?P<equal>[^|]+) \|$", re.M
)


UNCOUNTED = ("–", "–", "–")


def rows(page: str) -> dict[str, tuple[str, str, str]]:
    """Command → tried, survived, all equal: as the page has it."""
    return {match["name"]: (match["tried"], match["survived"], match["equal"]) for match in ROW.finditer(page)}


def rewritten(page: str, name: str, tried: int, failed: int) -> str:
    """The page with the counts of one command."""
    line = f"| `xeval {name}` | {tried:,} | {tried - failed:,} | {'no' if failed else 'yes'} |"
    return ROW.sub(lambda match: line if match["name"] == name else match[0], page)


def count(names: Sequence[str]) -> int:
    """Try everything; return how many faults were not survived."""
    total = 0
    with Forks() as forks, TemporaryDirectory() as place:
        for name in names:
            trial = Trial(commands()[name], forks, Path(place) / name)
            cases = every(trial.points)
            failed = 0
            for told in wrong(trial, cases):
                print(f"{name}: {told}", flush=True)
                failed += 1
            print(f"{name}: {len(cases)} tried, {failed} not survived", flush=True)
            PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), name, len(cases), failed), encoding="utf-8")
            total += failed
    return total


if __name__ == "__main__":
    sys.exit(count(sys.argv[1:] or list(commands())) > 0)
