"""Settle what a foreign checkpoint is called and which seed it has: the user's word first, then that of its options."""

from __future__ import annotations

from dataclasses import dataclass

from xeval.errors import UsageError

SEED = ("args.seed", "opt.seed", "opt.trial", "hyper_parameters.seed", "seed")
METHOD = ("opt.method", "args.method", "hyper_parameters.method")
ARCH = ("arch", "args.arch", "args.model", "opt.model", "hyper_parameters.arch", "hyper_parameters.model_name")
LARGEST = 2**63 - 1
LONGEST = 200  # characters of a name, as in a card


@dataclass(frozen=True)
class Facts:
    """The name of a run, its method as tables show it, and its seed, which is None where nobody says it."""

    name: str
    method: str
    seed: int | None


def facts(
    fields: dict[str, str], *, out: str, stem: str, name: str | None, method: str | None, seed: int | None
) -> Facts:
    """Return the facts of a file with these options, to be written to a folder called ``out``.

    ``name``, ``method`` and ``seed`` are what the user gives. Raises :class:`UsageError` for a name of several lines.
    """
    named = next((fields[key] for key in METHOD if fields.get(key)), stem)
    return Facts(
        name=one_line("--name", name or out),
        method=one_line("--method", method or named),
        seed=seed_of(fields) if seed is None else seed,
    )


def seed_of(fields: dict[str, str]) -> int | None:
    """Return the first seed that is a whole number, None where there is none: 0 would be a claim."""
    number = whole_number(fields, *SEED)
    return number if number is None or number <= LARGEST else None


def whole_number(fields: dict[str, str], *names: str) -> int | None:
    """Return the first of the named fields that is a whole number."""
    return next((int(fields[name]) for name in names if fields.get(name, "").isdecimal()), None)


def arch_of(fields: dict[str, str]) -> str | None:
    """Return the name of the architecture that the options give, without the tag that timm puts behind a dot."""
    return next((fields[name].partition(".")[0] for name in ARCH if fields.get(name)), None)


def one_line(option: str, text: str) -> str:
    """Return a name as it is, in any alphabet; raise UsageError unless it is one printable line."""
    if not text.strip() or not text.isprintable() or len(text) > LONGEST:
        raise UsageError(
            f"{option} {ascii(text)[:100]} is not one line of at most {LONGEST} characters",
            "give a shorter or plainer name",
        )
    return text.strip()
