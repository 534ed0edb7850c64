"""Rows D of the fault matrix as a user meets them: whole commands on damaged, foreign and odd data."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xeval
from tests.commands import here
from tests.data import makers
from tests.data.makers import noise, png, write_tree
from tests.runs import make_run
from tests.scenes import small_model
from tests.training.test_recipe import MINIMAL
from xeval.data import open_dataset
from xeval.data.images import decode
from xeval.data.sources import READERS
from xeval.errors import DataError
from xeval.reports.compare import compare

IMAGES = noise(6, 16, seed=4)
FILES = {f"{name}/{number}.png": png(IMAGES[3 * row + number]) for row, name in enumerate("ab") for number in range(3)}
FAST = ["--metrics", "complexity", "--explainers", "grad-cam,random-cam"]
Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line in this process: exit code, stdout and the last line of stderr."""
    return lambda *arguments: here(capsys, *map(str, arguments))


def folder(root: Path, **changes: bytes | None) -> Path:
    """Two classes of three images each; a changed file is given by its path, None leaves it out."""
    return write_tree(root, {name: data for name, data in {**FILES, **changes}.items() if data is not None})


def trained_on(data: Path, run: Path, **changes: Any) -> Path:
    """A run directory whose data set was ``folder:DATA``."""
    info = open_dataset(f"folder:{data}").info
    return make_run(run, info=replace(info, **changes))[0]


def score(shell: Shell, run: Path, data: Path, *options: str) -> tuple[int, str, str]:
    return shell("score", run, "--dataset", f"folder:{data}", *FAST, *options)


def scores_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return found


# ---- archives


def official(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], path: Path) -> bytes:
    """CIFAR-100's binary archive with this content is the published one."""
    data = makers.tar_of(files)
    path.write_bytes(data)
    source = READERS["cifar100"]
    archive = replace(source.archives[0], md5=hashlib.md5(data).hexdigest())
    monkeypatch.setitem(READERS._things, "cifar100", replace(source, archives=(archive,)))
    return data


@pytest.mark.fault("D1", "D2")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("../evil", "a path to a parent"), ("/evil", "an absolute path"), ("n" * 5000, "an over-long name")],
)
def test_get_refuses_hostile_members(
    name: str, reason: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in" / "cifar-100-binary.tar.gz"
    path.parent.mkdir()
    official(monkeypatch, {"cifar-100-binary/train.bin": b"x", name: b"evil"}, path)
    code, _, last = shell("data", "get", "cifar100", "--data", path.parent)
    assert (code, name[:200] in last, reason in last) == (4, True, True)
    assert list(tmp_path.rglob("*")) == [path.parent, path]
    assert not Path("/evil").exists()


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.fault("D6")
@pytest.mark.parametrize("packed", [True, False])
def test_altered_cifar_pickles_never_run(packed: bool, shell: Shell, tmp_path: Path) -> None:
    labels, data, marker = np.arange(6) % 3, tmp_path / "data", tmp_path / "ran"
    files = makers.cifar100_python(noise(6, 32, seed=0), labels)
    info = open_dataset("cifar100", write_tree(tmp_path / "sound", files)).info
    run = make_run(tmp_path / "run", info=info)[0]
    files["cifar-100-python/test"] = pickle.dumps({"data": Payload(marker)})
    if packed:
        data.mkdir()
        (data / "cifar-100-python.tar.gz").write_bytes(makers.tar_of(files))
    else:
        write_tree(data, files)
    code, _, last = shell("score", run, "--data", data, *FAST)
    assert code == 4
    assert ("wrong checksum" if packed else "refused globals: posix.system") in last
    assert not marker.exists()
    assert not (run / "scores.sqlite").exists()


# ---- image files


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(IMAGES[0].transpose(1, 2, 0))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(picture(), format="PNG", exif=exif)


def animated() -> bytes:
    return saved(picture(), format="GIF", save_all=True, append_images=[picture().rotate(90)])


DAMAGED = {
    "truncated": (FILES["a/0.png"][:-40], "is damaged"),
    "empty": (b"", "is a 0-byte file"),
    "text": (b"not a picture", "is not an image that can be read"),
    "animated": (animated(), "has several frames"),
}
ODD = {
    "cmyk.jpg": saved(picture().convert("CMYK"), format="JPEG"),
    "sixteen.png": saved(Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257), format="PNG"),
    "rotated.png": rotated(),
    "grey.png": png(IMAGES[0, 0]),
    "rgba.png": png(np.concatenate([IMAGES[0], IMAGES[0, :1]])),
}


@pytest.mark.fault("D7", "D8")
@pytest.mark.parametrize("kind", DAMAGED)
def test_one_damaged_image_stops_scoring_or_is_left_out_for_everyone(kind: str, shell: Shell, tmp_path: Path) -> None:
    content, problem = DAMAGED[kind]
    sound, data = folder(tmp_path / "sound"), folder(tmp_path / "data", **{"b/1.png": content})
    run, other = trained_on(sound, tmp_path / "run"), trained_on(sound, tmp_path / "other")
    options = ("--normalize-from-ckpt",)  # the constants of the remaining images are not those of all
    code, _, last = score(shell, run, data, *options)
    assert code == 3
    assert f"{data}/b/1.png {problem}" in last
    assert "1 of 6 images" in last
    assert not (run / "scores.json").exists()
    if kind != "truncated":
        return
    for each in (run, other):
        assert score(shell, each, data, *options, "--allow-partial")[0] == 7
    found, again = scores_of(run), scores_of(other)
    assert found["dataset"]["n"] == 5
    assert found["dataset"]["key"] == again["dataset"]["key"]
    assert set(xeval.results(run)["image"]) == {name for name in FILES if name != "b/1.png"}


@pytest.mark.fault("D8")
def test_odd_images_are_scored_by_rule(shell: Shell, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", **{f"a/{name}": content for name, content in ODD.items()})
    run = trained_on(data, tmp_path / "run")
    assert score(shell, run, data)[0] == 0
    assert scores_of(run)["dataset"]["n"] == 6 + len(ODD)


@pytest.mark.fault("D9")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_unfolds() -> None:
    """30,000 × 30,000 pixels of one bit in a PNG of half a megabyte: as RGB they are 2.7 GB."""
    line, packer = bytes(1 + 30_000 // 8), zlib.compressobj(1)
    data = b"".join(packer.compress(line * 100) for _ in range(300)) + packer.flush()
    parts = (b"IHDR" + (30_000).to_bytes(4) * 2 + b"\x01\x00\x00\x00\x00", b"IDAT" + data, b"IEND")
    chunks = [(len(part) - 4).to_bytes(4) + part + zlib.crc32(part).to_bytes(4) for part in parts]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"bomb\.png .*DecompressionBomb"):
        decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# ---- data that do not fit the checkpoint


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"b/{n}.png": None for n in range(3)}, "missing: b"),
        ({"c/0.png": FILES["a/0.png"]}, "not in training: c"),
        ({f"b/{n}.png": None for n in range(3)} | {"c/0.png": FILES["a/0.png"]}, "missing: b; not in training: c"),
        ({f"b/{n}.png": None for n in range(3)} | {"b/notes.txt": b"x"}, "b holds no images"),
    ],
)
def test_other_class_folders_are_listed(
    changes: dict[str, bytes | None], message: str, shell: Shell, tmp_path: Path
) -> None:
    run = trained_on(folder(tmp_path / "sound"), tmp_path / "run")
    code, _, last = score(shell, run, folder(tmp_path / "data", **changes))
    assert (code, message in last) == (3, True)


@pytest.mark.fault("D12")
def test_other_constants_are_refused_or_replaced_by_those_of_training(shell: Shell, tmp_path: Path) -> None:
    run = trained_on(folder(tmp_path / "sound"), tmp_path / "run")
    data = folder(tmp_path / "data", **{"b/1.png": png(IMAGES[0] // 2)})
    trained, found = (open_dataset(f"folder:{tmp_path / name}").info for name in ("sound", "data"))
    code, _, last = score(shell, run, data)
    assert code == 3
    for triple in (trained.mean, trained.std, found.mean, found.std):
        assert str(triple) in last
    assert "--normalize-from-ckpt" in last
    assert score(shell, run, data, "--normalize-from-ckpt")[0] == 0


@pytest.mark.fault("D14")
def test_images_of_another_size_are_refused(shell: Shell, tmp_path: Path) -> None:
    run = trained_on(folder(tmp_path / "sound"), tmp_path / "run")
    large = {name: png(image) for name, image in zip(FILES, noise(6, 32, seed=4), strict=True)}
    code, _, last = score(shell, run, write_tree(tmp_path / "data", large), "--normalize-from-ckpt")
    assert code == 3
    assert "trained on images of 16×16 pixels" in last
    assert "has 32×32" in last


@pytest.mark.fault("D15")
def test_training_images_passed_as_test_images_are_named(shell: Shell, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    split = open_dataset(f"folder:{data}").split("test")
    run = trained_on(data, tmp_path / "run")
    warning = "image hashes overlap the training manifest"
    assert score(shell, run, data)[0] == 0
    assert not any(warning in text for text in scores_of(run)["warnings"])
    card = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**card, "train_manifest": split.manifest()}))
    (run / "scores.json").unlink()
    assert score(shell, run, data)[0] == 0
    assert any(warning in text for text in scores_of(run)["warnings"])


@pytest.mark.fault("D13")
def test_an_accuracy_far_below_the_recorded_one_is_named(shell: Shell, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    run = trained_on(data, tmp_path / "run")
    card = json.loads((run / "run.json").read_text())
    for recorded, warned in ((0.0, False), (1.0, True)):
        card["selection"]["best_accuracy"] = recorded
        (run / "run.json").write_text(json.dumps(card))
        (run / "scores.json").unlink(missing_ok=True)
        assert score(shell, run, data)[0] == 0
        assert any("check normalisation and label order" in text for text in scores_of(run)["warnings"]) == warned


# ---- names and places

NAMES = [
    "<img src=x onerror=alert(1)>",
    "$\\alpha$",
    "_x",
    "🦊",
    "\u05d0\u202eevil",
    "n" * 300,
    "two\nlines",
    "</script><b>",
    "=1+1",
    "\x1b[31mred",
]


@pytest.mark.fault("D17")
def test_hostile_class_names_survive_scoring_and_comparing(tmp_path: Path) -> None:
    labels = torch.arange(60) % len(NAMES)
    batches = [(torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0)), labels)]
    model = small_model(classes=len(NAMES))
    xeval.score(model, batches, classes=NAMES, out=tmp_path / "runs" / "one", metrics=("complexity",))
    found = json.loads((tmp_path / "runs" / "one" / "scores.json").read_text())
    assert found["dataset"]["classes"] == NAMES
    text = compare(tmp_path / "runs", tmp_path / "report").page.read_text()
    for raw in ("<img src=x", "\x1b", "\u202e", "</script><b>"):
        assert raw not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


@pytest.mark.fault("D18", "D19")
@pytest.mark.parametrize("name", ["a b", "ünïcode-\u05d0", "-leading"])
def test_odd_places_through_train_score_and_compare(
    name: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every path a user gives is odd; nothing is written where the data lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xeval.reports.compare.figures", lambda *_: [])
    data = write_tree(tmp_path / name / "data", {f"{s}/{k}": v for s in ("train", "test") for k, v in FILES.items()})
    recipe = tmp_path / name / "my recipe.toml"
    recipe.write_text(MINIMAL.replace('"digits"', json.dumps(f"folder:{name}/data")), encoding="utf-8")
    before = makers.snapshot(data)
    with no_writing_below(data):
        code, out, last = shell("train", "--method", "ce", f"--out={name}/runs", "--", f"{name}/my recipe.toml")
        assert code == 0, last
        run = Path(out.strip())
        assert run.parent == Path(name, "runs")
        code, _, last = shell("score", *FAST, "--", run)
        assert code == 0, last
        code, _, last = shell("compare", f"--out={name}/report", "--", f"{name}/runs")
        assert code == 0, last
    assert (tmp_path / name / "report" / "report.html").is_file()
    assert makers.snapshot(data) == before


def test_the_watch_is_awake(tmp_path: Path) -> None:
    with no_writing_below(tmp_path), pytest.raises(PermissionError, match="read-only"):
        (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"")


class no_writing_below:  # noqa: N801 - used as a statement
    """Every file that Python opens is looked at; one opened for writing below a folder is an error."""

    watched: Path | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        type(self).watched = self.folder

    def __exit__(self, *_: object) -> None:
        type(self).watched = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    watched = no_writing_below.watched
    if watched is None or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    flags = arguments[2] or 0
    inside = os.path.abspath(os.fsdecode(arguments[0])).startswith(str(watched))  # noqa: PTH100 - must not open files
    if inside and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        raise PermissionError(13, "the data are read-only", arguments[0])


sys.addaudithook(_audit)
