"""Runs every benchmark in a process of its own, and keeps the results in ``benchmarks/results.json``.

In ``python -m benchmarks [--quick] [--device …] [NAME …]`` names choose benchmarks; their results replace the old ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
RUNS: tuple[tuple[str, ...], ...] = (
    ("suite",),
    ("suite", "--explainers", "6"),
    ("suite", "--captum"),
    ("suite", "--compile", "on"),
    ("infidelity",),
    ("single",),
    ("drop_increase",),
    ("floor",),
    ("training",),
    ("memory",),
    ("ranks",),
    ("startup",),
    ("store",),
    ("growth",),
    ("report",),
)


def run(words: tuple[str, ...], options: list[str]) -> dict[str, Any]:
    """Run one benchmark and return the result that it prints last; raise an error where it fails."""
    found = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:], *options], check=True, stdout=subprocess.PIPE
    )
    answer: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return {**answer, "arguments": list(words[1:])}


def key(answer: dict[str, Any]) -> tuple[str, ...]:
    """Return the benchmark and its arguments, which identify a result."""
    return (answer["benchmark"], *answer["arguments"])


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace old results by new ones of the same key, in the order in which everything is run."""
    found = {key(answer): answer for answer in [*old, *new]}
    return [found[words] for words in RUNS if words in found]


def main(arguments: list[str]) -> None:
    """Run the requested benchmarks and write the results after each, so that nothing finished is lost."""
    names = [word for word in arguments if word in {words[0] for words in RUNS}]
    options = [word for word in arguments if word not in names]
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    for words in RUNS:
        if names and words[0] not in names:
            continue
        start = time.perf_counter()
        answer = run(words, options)
        print(f"{' '.join(words)}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        results = merged(results, [answer])
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
