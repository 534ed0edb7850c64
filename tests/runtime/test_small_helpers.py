"""First lines of errors, versions of packages, the commit of the source tree, folders that exist."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT
from xeval.runtime import provenance as module
from xeval.runtime.endings import first_line
from xeval.runtime.files import file_hash, nearest_existing
from xeval.runtime.provenance import package_version


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one"), "one"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        ("said", "said"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_the_first_line_of_an_error(error: Exception | str, line: str) -> None:
    assert first_line(error) == line
    assert first_line(error, 3) == line[:3]


def test_a_package_has_a_version_or_none() -> None:
    assert package_version("numpy") == np.__version__
    assert package_version("xeval-has-no-such-neighbour") is None


def test_the_commit_is_the_one_of_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def git(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(cwd)
        return subprocess.CompletedProcess(command, 0, "0123456789ab\n", "")

    monkeypatch.setattr(module.Path, "exists", lambda _: True)
    monkeypatch.setattr(module.subprocess, "run", git)
    assert module._commit() == "0123456789ab"
    assert asked == [ROOT]


def test_the_nearest_existing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("a") / "b") == tmp_path


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "a", "md5") == "900150983cd24fb0d6963f7d28e17f72"
