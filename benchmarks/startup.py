"""What ``xeval --help`` and every ``xeval COMMAND --help`` cost: seconds of a fresh process, and what it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click

from benchmarks.pairs import seconds
from benchmarks.rows import Claim, DisagreementError, Options, Target, main, row_of
from xeval.cli.main import cli

HEAVY = ("torch", "pandas", "matplotlib", "quantus")
CODE = (
    "import sys\nfrom xeval.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
)


def commands(group: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, groups included."""
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


def help_of(words: tuple[str, ...]) -> None:
    """Run one ``--help``; raise an error where it fails or imports a heavy package."""
    found = subprocess.run([sys.executable, "-c", CODE, *words, "--help"], capture_output=True, text=True, check=True)
    if not found.stdout.startswith("Usage:") or found.stderr.strip():
        raise DisagreementError(f"xeval {' '.join(words)} --help imports {found.stderr.strip()}")


def measure(options: Options) -> Iterator[Claim]:
    """Yield the slowest command by its median; the note compares it with an interpreter that does nothing."""
    rounds = options.pick("rounds", 5, 1)
    words = list(commands())[: 2 if options.quick else None]
    times: dict[str, list[float]] = {" ".join(one): [] for one in words}
    bare: list[float] = []
    for number in range(rounds + 1):  # the first round only fills the disk's cache
        for one in words:
            spent = seconds(lambda one=one: help_of(one))  # type: ignore[misc]
            times[" ".join(one)].extend([spent] if number else [])
        bare.append(seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
    slowest = max(times, key=lambda name: sorted(times[name])[rounds // 2])
    yield row_of(
        f"--help of xeval and its {len(words) - 1} commands, the slowest: xeval {slowest}".rstrip(),
        "s",
        times[slowest],
        Target("at most", 0.3),
        checked=f"no --help imports {', '.join(HEAVY)}",
        note=f"an interpreter that does nothing takes {sorted(bare)[rounds // 2]:.3f} s",
        measurements={"seconds": times, "bare_seconds": bare},
    )


if __name__ == "__main__":
    main("startup", __doc__, measure)
