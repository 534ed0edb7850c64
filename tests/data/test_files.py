"""A folder and a zip file of the same files are the same tree; trees survive forks and threads."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.makers import write_tree, zip_of
from xeval.data.files import FolderTree, Tree, ZipTree
from xeval.errors import DataError

FILES = {
    f"{folder}f{n}": f"{folder}{n}".encode() * 500
    for folder in ("", "a/", "a/b/", "ab/", ".h/", "a/.h/")
    for n in range(5)
}


@pytest.fixture(params=["folder", "zip", "zip with a top folder"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    if request.param == "folder":
        return FolderTree(write_tree(tmp_path, FILES))
    top = "top/" if request.param.endswith("top folder") else ""
    return ZipTree.around(zip_of(tmp_path / "a.zip", {top + name: data for name, data in FILES.items()}), "f0")


def test_lists(tree: Tree) -> None:
    assert tree.below("") == sorted(FILES)
    assert tree.below("a") == sorted(name for name in FILES if name.startswith("a/"))
    assert tree.below("a/b") == [f"a/b/f{n}" for n in range(5)]
    assert tree.below("nowhere") == []
    assert tree.folders("") == ["a", "ab"]
    assert tree.folders("a") == ["b"]
    assert tree.folders("nowhere") == []


def test_contents_also_from_many_threads(tree: Tree) -> None:
    names = list(FILES) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tree.read, names)) == [FILES[name] for name in names]


def test_contents_from_forked_processes(tree: Tree) -> None:
    tree.read("f0")  # the parent has it open already
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        own = os.getpid() in tree._open if isinstance(tree, ZipTree) and tree.read("f1") else True
        answers.put((own, all(tree.read(name) == data for name, data in FILES.items())))

    process = context.Process(target=child)
    process.start()
    opened_its_own, contents = answers.get()
    process.join()
    assert opened_its_own  # a shared file position would mix up the two processes' reads
    assert contents


def test_missing_and_oversized_files_are_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"a/none (is missing|cannot be read)"):
        tree.read("a/none")
    monkeypatch.setattr("xeval.data.files.MAX_FILE", 10)
    if isinstance(tree, ZipTree):
        with pytest.raises(DataError, match="f1 has 500 bytes"):
            tree.read("f1")
    else:
        with pytest.raises(DataError, match="f1 has 500 bytes"):
            FolderTree(tree.root, limit=10).read("f1")  # type: ignore[attr-defined]
