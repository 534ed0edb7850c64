"""Where the numbers come from and what is missing among them: status, undefined values, warnings, origins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from xeval.reports.collect import Collection, Group, Run
from xeval.reports.tables import MISSING

#: Keys of :func:`provenance` in the order of the page, with their headings.
SHOWN = {
    "seed": "seed",
    "weights": "weights",
    "sha256": "checkpoint",
    "recipe_hash": "recipe",
    "train_manifest": "training data",
    "manifest": "scored data",
    "arch": "architecture",
    "layer": "layer",
    "cam_size": "map",
    "precision": "trained in",
    "best_epoch": "best epoch",
    "select_on": "chosen on",
    "xeval": "xeval",
    "torch": "torch",
    "python": "Python",
    "commit": "commit",
    "train_seconds": "trained",
    "score_seconds": "scored",
}
RARE = frozenset({"precision"})  # shown where a run has it
HASHES = frozenset({"sha256", "recipe_hash", "train_manifest", "manifest", "commit"})
SECONDS = frozenset({"train_seconds", "score_seconds"})


def status(collection: Collection) -> list[tuple[str, str, bool]]:
    """Return the strip under the header: (what, how many, whether it deserves attention)."""
    reasons = Counter(item.reason for item in collection.excluded)
    counts = Counter(kind for group in collection.groups for kind, *_ in _problems(group))
    images = sorted({f"{g.dataset} {g.first.scores.dataset.n:,}" for g in collection.groups})
    strip = [
        ("runs found", str(len(collection.runs) + len(collection.excluded)), False),
        ("scored", str(len(collection.runs)), False),
    ]
    strip += [(reason, str(count), True) for reason, count in sorted(reasons.items())]
    strip += [("images", ", ".join(images), False)]
    strip += [
        ("cells with undefined values", str(counts["undefined"]), False),
        ("cells with errors", str(counts["error"]), counts["error"] > 0),
    ]
    total = sum(len(warnings(group)) for group in collection.groups)
    return [*strip, ("warnings", str(total), total > 0)]


def _problems(group: Group) -> list[tuple[str, str, str, str, str, int]]:
    """Return (undefined or error, method, explainer, column, reason, images summed over seeds), controls last."""
    found: Counter[tuple[bool, str, str, str, str, str]] = Counter()
    for run in group.runs:
        for explainer, columns in run.scores.scores.items():
            control = run.scores.explainers[explainer].control if explainer in run.scores.explainers else True
            for column, score in columns.items():
                for kind, reasons in (("undefined", score.undefined), ("error", score.errors)):
                    for reason, count in reasons.items():
                        found[control, kind, run.method, explainer, column, reason] += count
    return [(*key[1:], count) for key, count in sorted(found.items()) if count]


def undefined(group: Group) -> list[dict[str, Any]]:
    """Return the same as rows for the page: columns that share method, explainer and reason are folded together."""
    folded: dict[tuple[str, str, str, str], list[tuple[str, int]]] = {}
    for kind, method, explainer, column, reason, count in _problems(group):
        folded.setdefault((kind, method, explainer, reason), []).append((column, count))
    return [
        {
            "kind": kind,
            "method": method,
            "explainer": explainer,
            "reason": reason,
            "most": max(n for _, n in columns),
            "columns": [c for c, _ in columns],
        }
        for (kind, method, explainer, reason), columns in folded.items()
    ]


def warnings(group: Group) -> list[tuple[str, int]]:
    """Return the warnings of the scorer and on how many runs each was given."""
    return sorted(Counter(text for run in group.runs for text in run.scores.warnings).items())


def notes(group: Group) -> list[tuple[str, int]]:
    """Return what was said of the data, such as files that were passed over, and on how many runs."""
    return sorted(Counter(text for run in group.runs for text in run.scores.dataset.notes).items())


def provenance(run: Run) -> dict[str, Any]:
    """Say where one run's numbers come from."""
    scores, card = run.scores, run.card
    trained = card.provenance if card else {}
    selection = card.selection if card else {}
    versions = scores.provenance or trained
    return {
        "name": run.name,
        "path": run.path,
        "method": run.method,
        "seed": run.seed,
        "arch": scores.checkpoint.arch,
        "weights": scores.checkpoint.weights,
        "sha256": scores.checkpoint.sha256,
        "recipe_hash": scores.checkpoint.recipe_hash,
        "train_manifest": card.train_manifest if card else None,
        "manifest": scores.dataset.manifest,
        "layer": scores.explained.layer,
        "cam_size": "×".join(map(str, scores.explained.cam_size or ())),
        "precision": card.lower_precision if card else None,
        "best_epoch": selection.get("best_epoch"),
        "select_on": selection.get("select_on"),
        "xeval": versions.get("xeval"),
        "torch": versions.get("torch"),
        "python": versions.get("python"),
        "platform": versions.get("platform"),
        "commit": versions.get("commit"),
        "train_seconds": trained.get("seconds"),
        "score_seconds": scores.cost.seconds,
        "passes": scores.cost.passes,
    }


@dataclass(frozen=True)
class Origins:
    """The provenance of all runs for the page: what they share is said once, the rest in a row a run.

    Every entry is (what, text, complete value of a shortened hash).
    """

    shared: tuple[tuple[str, str, str], ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]


def origins(group: Group) -> Origins:
    """Return the columns in which two runs differ, and what holds for all; of a single run everything is a column."""
    found = [provenance(run) for run in group.runs]
    shown = {key: head for key, head in SHOWN.items() if key not in RARE or any(one[key] for one in found)}
    told = [{head: (head, *_shown(key, one[key])) for key, head in shown.items()} for one in found]
    same = [head for head in shown.values() if len(told) > 1 and len({one[head] for one in told}) == 1]
    heads = tuple(head for head in shown.values() if head not in same)
    rows = tuple(
        (one["name"], tuple(entries[head] for head in heads)) for one, entries in zip(found, told, strict=True)
    )
    return Origins(tuple(told[0][head] for head in same if told[0][head][1] != MISSING), heads, rows)


def _shown(key: str, value: Any) -> tuple[str, str]:
    """Return the text of an entry, and the whole of it where the text is cut."""
    if value is None or value == "":
        return MISSING, ""
    if key in HASHES:
        return str(value)[:12], str(value)
    if key in SECONDS and isinstance(value, int | float):
        return f"{value:.1f} s", ""
    return str(value), ""


def versions(collection: Collection) -> str:
    """Return the xeval versions that scored, from the runs: the page says nothing about the machine that built it."""
    found = {str(run.scores.provenance.get("xeval", "")) for run in collection.runs} - {""}
    return ", ".join(sorted(found))
