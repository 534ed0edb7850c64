"""Truncated, flipped and invented archives, recipes and result files: a documented error or a result, nothing else."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.makers import cifar100_python, noise, tiny_imagenet, write_tree
from tests.reports.synthetic import card, scores, write_run
from xeval.checkpoints.card import read_card
from xeval.data import archive, open_dataset
from xeval.data.archive import MARKER, extract
from xeval.data.unpickler import load_arrays
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.reports.collect import collect
from xeval.training.recipe import FOLDER, load_recipe

MEMORY = 64 * 2**20
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
FEW = {**COMMON, "max_examples": 50, "derandomize": True}
MANY = {**COMMON, "max_examples": 1000}


def fuzzed(*strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same body twice: a few examples in every run of the suite, thousands in the slow one."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("budget", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
        def test(budget: dict[str, Any]) -> None:
            @settings(**budget)
            @given(st.tuples(*strategies))
            def one(drawn: tuple[Any, ...]) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    body(Path(folder), *drawn)

            one()

        test.__doc__ = body.__doc__
        return test

    return decorate


@contextmanager
def documented(*kinds: type[Exception]) -> Iterator[None]:
    """A result, or an error of these kinds; in any case within a bounded memory."""
    tracemalloc.start()
    try:
        with suppress(*kinds):
            yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some of them changed, a piece repeated or cut out, and the rest cut off."""
    place = st.integers(0, len(data) - 1)
    raw = bytearray(data)
    for position, value in draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        raw[position] = value
    start, stop, times = draw(st.tuples(place, place, st.sampled_from([1, 1, 1, 0, 2])))
    raw = raw[:start] + raw[start:stop] * times + raw[max(start, stop) :]
    return bytes(raw[: draw(st.just(len(raw)) | st.integers(0, len(raw)))])


# ---- archives


def tar_bytes(form: int) -> bytes:
    """A plain tar file with what the format can say: long names, extended headers, folders, a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in ("set/a", f"set/{'n' * 120}/b", "set/ü"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(range(100)) * 7))
        for kind in (tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.SYMTYPE):
            info = tarfile.TarInfo(f"set/{kind.decode()}")
            info.type, info.linkname = kind, "a"
            tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name in ("set/", "set/a", "set/deep/b", "set/ü"):
            packed.writestr(name, b"" if name.endswith("/") else bytes(range(100)) * 7)
    return buffer.getvalue()


TARS = [tar_bytes(form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
ZIPS = [zip_bytes(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@fuzzed(
    st.sampled_from(TARS).flatmap(damaged)
    | st.sampled_from(TARS).flatmap(damaged).map(gzip.compress)
    | st.sampled_from([gzip.compress(data) for data in TARS]).flatmap(damaged)
    | st.sampled_from(ZIPS).flatmap(damaged)
)
def test_archives(folder: Path, data: bytes) -> None:
    """The whole folder with its marker, or nothing at all; never a file outside."""
    root = folder / "root"
    root.mkdir()
    path = folder / "x.archive"
    path.write_bytes(data)
    with documented(CheckpointError), small_limits():
        extract(path, root, "set")
    left = {str(item.relative_to(folder)) for item in folder.rglob("*")}
    inside = {name for name in left if name.startswith("root/set")}
    assert left == {"root", "x.archive"} | inside
    assert bool(inside) == (root / "set" / MARKER).is_file()


@contextmanager
def small_limits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "MAX_BYTES", 2**20)
        yield


def photos() -> bytes:
    """Three classes of Tiny ImageNet as a zip file, stored, so that damage reaches the lists and the images."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in PHOTO_FILES.items():
            packed.writestr(name, data)
    return buffer.getvalue()


PHOTO_FILES = tiny_imagenet(noise(9, 64, seed=2) // 64 * 64)
LISTS = [name for name in PHOTO_FILES if name.endswith(".txt")]
PICKLES = [data for name, data in cifar100_python(noise(3, 32, seed=1) // 128, np.array([1, 2, 3])).items()]


@fuzzed(damaged(photos()))
def test_zipped_photographs(folder: Path, data: bytes) -> None:
    path = folder / "tiny-imagenet-x.zip"
    path.write_bytes(data)
    with documented(CheckpointError, DataError):
        read_all("tiny-imagenet", path)


@fuzzed(st.sampled_from(LISTS).flatmap(lambda name: st.tuples(st.just(name), damaged(PHOTO_FILES[name]))))
def test_lists_of_photographs(folder: Path, change: tuple[str, bytes]) -> None:
    write_tree(folder, {**PHOTO_FILES, change[0]: change[1]})
    with documented(DataError):
        read_all("tiny-imagenet", folder)


def read_all(name: str, root: Path) -> None:
    dataset = open_dataset(name, root)
    for split in (dataset.split("train"), dataset.split("test")):
        split.read(range(len(split)))


@fuzzed(st.sampled_from(PICKLES).flatmap(damaged) | st.binary(max_size=200))
def test_pickles_of_cifar(folder: Path, data: bytes) -> None:
    before = list(folder.iterdir())
    with documented(CheckpointError, DataError):
        load_arrays(data, "file")
    assert list(folder.iterdir()) == before


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
def test_a_pickle_that_numbers_its_objects_into_the_billions(opcode: bytes) -> None:
    """The unpickler makes room for all numbers up to the largest one: 16 GB here."""
    with pytest.raises(DataError, match="object number 2147483647"), documented():
        load_arrays(b"\x80\x02}" + opcode + b".", "file")


# ---- recipes

RECIPES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.toml"))}
KEYS = sorted({line.split("=")[0].strip() for text in RECIPES.values() for line in text.splitlines() if "=" in line})
TABLES = sorted({line.strip() for text in RECIPES.values() for line in text.splitlines() if line.startswith("[")})
VALUES = (
    st.integers(-(2**70), 2**70).map(str)
    | st.floats(allow_nan=True).map(repr)
    | st.text(max_size=20).map(json.dumps)
    | st.lists(st.sampled_from(["1", "0.5", '"a"', "true", "[]"]), max_size=4).map(
        lambda items: f"[{', '.join(items)}]"
    )
    | st.sampled_from(
        ["true", "{}", "{a = 1}", "1979-05-27T07:32:00Z", "nan", "-inf", "[" * 2000, "9" * 5000, '"\\u0000"']
    )
    | st.sampled_from(sorted(RECIPES)).map(lambda name: json.dumps(name.removesuffix(".toml")))
)
LINES = (
    st.tuples(st.sampled_from([*KEYS, "extends", "serves", "methods", "methods.ce", "name", "a.b"]), VALUES).map(
        " = ".join
    )
    | st.sampled_from([*TABLES, "[methods]", "[methods.ce.views]", "[[methods]]", "[optimizer.name]"])
    | st.text(max_size=30)
)


@st.composite
def recipes(draw: st.DrawFn) -> str:
    """A packaged recipe, or none, with lines put in, replaced or taken out."""
    lines = draw(st.sampled_from(sorted(RECIPES.values())) | st.just("")).splitlines()
    for line in draw(st.lists(LINES, max_size=4)):
        place = draw(st.integers(0, len(lines)))
        lines[place : place + draw(st.integers(0, 2))] = [line]
    return "\n".join(lines)


METHOD = st.none() | st.sampled_from(["ce", "excon", "supcon", "nothing"])
OVERRIDE = st.tuples(st.sampled_from([*KEYS, "optimizer.lr", "views.crop", "a", "name"]), VALUES).map("=".join)


@fuzzed(recipes(), METHOD, st.lists(OVERRIDE | st.text(max_size=20), max_size=2))
def test_recipes(folder: Path, text: str, method: str | None, overrides: list[str]) -> None:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with documented(UsageError):
        load_recipe(path, method, overrides)


@fuzzed(st.sampled_from(sorted(RECIPES.values())).flatmap(lambda text: damaged(text.encode())))
def test_damaged_recipe_files(folder: Path, data: bytes) -> None:
    (folder / "mine.toml").write_bytes(data)
    with documented(UsageError):
        load_recipe(folder / "mine.toml")


# ---- results

ODD = st.sampled_from(
    [None, True, 0, -1, 2**70, 1e308, -0.5, "", "x" * 300, "a\nb\x1b[31m", [], {}, [[]], {"": None}, ["a"]]
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a JSON document."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def edited(draw: st.DrawFn, content: Any) -> bytes:
    """A JSON document with up to three values replaced or removed."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = copy.deepcopy(draw(ODD))
        else:
            del parent[path[-1]]
    return json.dumps(content, ensure_ascii=False).encode(errors="replace")


LITERALS = st.sampled_from(
    [b"", b"null", b"[]", b"7", b'"x"', b"[" * 100_000, b"NaN", b'{"schema": Infinity}', b"\xff\xfe{"]
)
SCORES = scores("ce", 0, 0.3)
CARD = card(SCORES)


def results(content: Any) -> st.SearchStrategy[bytes]:
    return edited(content) | damaged(json.dumps(content).encode()) | LITERALS


@fuzzed(results(SCORES), st.sampled_from(["scores.json", "run.json"]))
def test_results_that_compare_collects(folder: Path, data: bytes, name: str) -> None:
    (write_run(folder, SCORES) / name).write_bytes(data)
    with documented(DataError):
        collect(folder)


@fuzzed(results(CARD))
def test_run_cards(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    with documented(DataError):
        read_card(folder)


@fuzzed(st.lists(st.sampled_from(list(PHOTO_FILES)), min_size=1, max_size=3))
def test_missing_files(folder: Path, names: list[str]) -> None:
    write_tree(folder, {name: data for name, data in PHOTO_FILES.items() if name not in names})
    with documented(DataError):
        read_all("tiny-imagenet", folder)
