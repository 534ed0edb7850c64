"""Keeps what is known of each epoch: the rows of ``history.csv``, which of them is best, and a line about one."""

from __future__ import annotations

import csv
import io
from typing import Any

COLUMNS = (
    "epoch",
    "loss",
    "head_loss",
    "train_accuracy",
    "val_accuracy",
    "val_loss",
    "lr",
    "masked_share",
    "collapse_gap",
    "seconds",
)
COLLAPSED = 0.01  # the loss counts as collapsed where it differs from the collapsed value by less than this share
EpochRow = dict[str, Any]


def merit(select_on: str, row: EpochRow) -> list[float] | None:
    """Return how good an epoch is, larger is better; None where it cannot be judged."""
    if select_on == "last":
        return [row["epoch"]]
    if select_on == "loss":
        return None if row["loss"] is None else [-row["loss"]]
    return None if row["val_accuracy"] is None else [row["val_accuracy"], -row["val_loss"]]


SHOWN = {"loss": "loss", "head_loss": "head loss", "val_accuracy": "accuracy", "masked_share": "masked images accepted"}


def summary(row: EpochRow, epochs: int) -> str:
    """Describe an epoch in one line, with a warning where the encoder has collapsed."""
    numbers = [f"{title} {row[name]:.3f}" for name, title in SHOWN.items() if row[name] is not None]
    line = f"epoch {row['epoch']}/{epochs}: {', '.join(numbers)} ({row['seconds']:.1f} s)"
    return f"{line}; warning: this is the loss of a collapsed encoder" if collapsed(row) else line


def collapsed(row: EpochRow) -> bool:
    """Return whether, from epoch 3 on, the loss equals that of an encoder that maps everything to one point."""
    gap, loss = row["collapse_gap"], row["loss"]
    return gap is not None and row["epoch"] >= 3 and abs(gap) < COLLAPSED * (loss + gap)


def history(rows: list[EpochRow]) -> bytes:
    """Return the content of history.csv: one line per epoch, empty where a column does not apply."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
