"""Finds the folders of runs below the compared folders: follows links, enters each once, names what is left out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xeval.errors import DataError

SCORES, CARD, HISTORY, ARTIFACTS = "scores.json", "run.json", "history.csv", "artifacts.json"
STATE = "state"
MARKS = {SCORES, CARD, HISTORY, "best.safetensors", "last.safetensors", STATE}
PASSED_OVER = {STATE, "state.prev"}


@dataclass(frozen=True)
class Excluded:
    """A folder that takes no part, and why."""

    path: str
    reason: str
    remedy: str


@dataclass
class Search:
    """What was found below the compared folders: every folder once, whichever links lead to it."""

    roots: Sequence[Path]
    places: list[Path] = field(default_factory=list)
    left_out: list[Excluded] = field(default_factory=list)
    _entered: dict[tuple[int, int], Path] = field(default_factory=dict)

    def name(self, folder: Path) -> str:
        """Return a folder for people: relative to the root where there is one, else with the root before it."""
        root = self.roots[0]
        if len(self.roots) > 1:
            shown = folder.as_posix()
        else:
            shown = folder.name if folder == root else folder.relative_to(root).as_posix()
        return shown.encode(errors="replace").decode()  # names may hold bytes that are no text

    def typed(self, folder: Path) -> str:
        """Return a folder as it can be typed where the roots were; of an absolute root only the name is shown."""
        root = self.roots[0]
        below = len(self.roots) == 1 and root.is_absolute()
        return shlex.quote((root.name / folder.relative_to(root) if below else folder).as_posix())

    def below(self, root: Path) -> None:
        """Search a folder and all below it, in the order of their names, but no hidden one and no training state."""
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            try:
                waiting += reversed(list(self._enter(folder)))
            except OSError as error:
                self._leave_out(folder, f"cannot be read ({error.strerror})", "check its owner and mode")

    def _enter(self, folder: Path) -> Iterator[Path]:
        """Note what a folder is and yield those in it; nothing where it was entered before."""
        status = folder.stat()
        first = self._entered.setdefault((status.st_dev, status.st_ino), folder)
        if first is not folder:
            self._leave_out(folder, f"is the same folder as {self.name(first)}", "it is compared once")
            return
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        folders = {entry.name for entry in found if _is_folder(entry)}
        if any((entry.name in folders) == (entry.name == STATE) for entry in found if entry.name in MARKS):
            self.places.append(folder)
        for entry in found:
            if entry.name in folders and entry.name not in PASSED_OVER and not entry.name.startswith("."):
                yield folder / entry.name
            elif entry.is_symlink() and not (folder / entry.name).exists():
                self._leave_out(folder / entry.name, "is a link that leads nowhere", "mend or remove it")

    def _leave_out(self, folder: Path, reason: str, remedy: str) -> None:
        self.left_out.append(Excluded(self.name(folder), reason, remedy))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or leads to one; a link that leads to itself raises an error otherwise."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def search(roots: Sequence[Path]) -> Search:
    """Search folders; raise DataError for a root that is none."""
    found = Search(roots)
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder", "name the folder that holds the run directories")
        found.below(root)
    return found
