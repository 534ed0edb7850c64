"""The pool of the gallery: which images, and that what stands beside them is what was scored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import xeval
from tests.runs import make_run
from xeval.api import explain
from xeval.data import open_dataset
from xeval.errors import DataError
from xeval.explainers.cam import upsample
from xeval.models import Classifier
from xeval.perturb.masks import kept
from xeval.scoring import gallery
from xeval.scoring.gallery import ABOUT, ARRAYS, Pictures, choose, read_pictures, write_pictures
from xeval.scoring.run import score
from xeval.scoring.store import Store

SIDE, LIMIT = 16, 90


def pool(folder: Path) -> Pictures:
    found = read_pictures(folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks scored on the same images in batches of different sizes."""
    root = tmp_path_factory.mktemp("runs")
    runs = [make_run(root / str(seed), seed=seed)[0] for seed in (0, 1)]
    return [
        score(run, metrics=("drop",), limit=LIMIT, batch_size=size) for run, size in zip(runs, (64, 7), strict=True)
    ]


@pytest.fixture(scope="module")
def stored(checkpoints: list[Path]) -> dict[str, np.ndarray]:
    """What the store holds of the pool's images, in the pool's order."""
    summary = json.loads((checkpoints[0] / "scores.json").read_text())
    with Store(checkpoints[0] / "scores.sqlite") as store:
        ids = store.images(summary["dataset"]["key"])
        order = [ids.index(name) for name in pool(checkpoints[0]).ids]
        cells = {cell.name: store.read(n).values for n, cell in store.cells() if cell.explainer in ("", "grad-cam")}
    return {name: values[order] for name, values in cells.items()}


def test_the_images_are_those_with_the_smallest_hashes() -> None:
    ids = [f"images/{i}.png" for i in range(500)]

    def hashed(name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"3:gallery:{name}".encode()).digest()[:8], "little", signed=True)

    expected = sorted(ids, key=hashed)[:64]
    assert [ids[i] for i in choose(ids, 3, 1024)] == expected
    assert [ids[::-1][i] for i in choose(ids[::-1], 3, 1024)] == expected
    assert [ids[i] for i in choose(ids, 4, 1024)] != expected


@pytest.mark.parametrize(("side", "images"), [(1, 64), (32, 64), (176, 64), (224, 39), (1000, 2), (3000, 1)])
def test_the_pool_is_bounded_in_images_and_pixels(side: int, images: int) -> None:
    assert len(choose([str(i) for i in range(100)], 0, side**2)) == images
    assert len(choose(["only"], 0, side**2)) == 1


def test_every_checkpoint_keeps_the_same_images(checkpoints: list[Path]) -> None:
    first, second = (pool(folder) for folder in checkpoints)
    assert len(first.ids) == 64
    assert first.ids == second.ids
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.label, second.label)
    assert not np.allclose(first.maps, second.maps)
    split = open_dataset("digits").split("test")
    positions = [split.ids.index(name) for name in first.ids]
    assert np.array_equal(first.pixels, split.read(positions).numpy())
    assert np.array_equal(first.label, split.labels[positions])


def test_nothing_depends_on_the_batch(checkpoints: list[Path], tmp_path: Path) -> None:
    again = pool(score(checkpoints[0], metrics=("drop",), limit=LIMIT, batch_size=5, out=tmp_path))
    first = pool(checkpoints[0])
    assert again.about == first.about
    for name in ("keep", "masked", "explained", "predicted"):
        assert np.array_equal(getattr(again, name), getattr(first, name)), name
    for name in ("maps", "p0", "p1"):
        assert np.allclose(getattr(again, name), getattr(first, name), atol=1e-5), name


def test_probabilities_are_those_of_the_store(checkpoints: list[Path], stored: dict[str, np.ndarray]) -> None:
    found = pool(checkpoints[0])
    assert found.about["thresholds"] == ["0.15", "0.3", "0.45"]
    assert found.shown == 2
    assert np.allclose(found.p0, stored["p0"], atol=1e-7)
    assert np.array_equal(found.predicted, stored["predicted"])
    assert np.array_equal(found.explained, stored["predicted"])
    for j, q in enumerate(found.about["thresholds"]):
        drop = np.maximum(0, found.p0 - found.p1[:, j]) / found.p0
        rise = np.maximum(0, found.p1[:, j] - found.p0) / found.p0
        assert np.allclose(drop, stored[f"drop.mag@{q}"], atol=2e-6)
        assert np.allclose(rise, stored[f"increase.mag@{q}"], atol=2e-6)
        assert (drop > 1e-3).any()


def test_masks_keep_the_highest_pixels_and_exactly_so_many(checkpoints: list[Path]) -> None:
    found = pool(checkpoints[0])
    maps = upsample(torch.from_numpy(found.maps), (SIDE, SIDE))[:, 0].numpy()
    for j, q in enumerate((0.15, 0.3, 0.45)):
        keep = found.keep[:, j] == 255
        assert (keep | (found.keep[:, j] == 0)).all()
        assert (keep.sum((1, 2)) == kept(q, SIDE**2)).all()
        for one, where in zip(maps, keep, strict=True):
            assert one[where].min() >= one[~where].max()


@pytest.mark.parametrize(("fill", "value"), [("black", 0), ("mean", None)])
def test_the_masked_picture_is_what_the_network_is_given(tmp_path: Path, fill: str, value: int | None) -> None:
    run, model = make_run(tmp_path / "run")
    found = pool(score(run, metrics=("drop",), limit=6, fill=fill))
    info = open_dataset("digits").info
    grey = round(info.mean[0] * 255) if value is None else value
    keep = found.keep[:, 2:3] == 255
    assert np.array_equal(found.masked, np.where(keep, found.pixels, grey))
    shown = (torch.from_numpy(found.masked) / 255 - info.mean[0]) / info.std[0]
    with torch.no_grad():
        after = model(shown).softmax(1).gather(1, torch.from_numpy(found.explained)[:, None])[:, 0]
    assert np.allclose(after, found.after, atol=1e-2)  # the fill is rounded to a whole grey


def test_other_protocols(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path / "run")
    plain = pool(score(run, metrics=("complexity",), limit=4, out=tmp_path / "a"))
    assert plain.about["thresholds"] == ["0.45"]
    other = pool(score(run, metrics=("drop",), thresholds=(0.2, 0.6), limit=4, out=tmp_path / "b"))
    assert other.about["thresholds"][other.shown] == "0.6"
    soft = pool(score(run, metrics=("drop",), mask="soft", limit=4, out=tmp_path / "c"))
    assert soft.keep.shape[1] == 1
    assert len(np.unique(soft.keep)) > 2
    cut = pool(score(run, metrics=("drop",), mask="cutoff", limit=4, out=tmp_path / "d"))
    assert {int(v) for v in np.unique(cut.keep)} == {0, 255}
    assert (np.diff(cut.keep.astype(int).sum((2, 3)), axis=1) <= 0).all()  # a higher cut keeps fewer


def test_a_pool_survives_the_disk_and_is_the_same_bytes_twice(checkpoints: list[Path], tmp_path: Path) -> None:
    found = pool(checkpoints[0])
    write_pictures(tmp_path, found)
    for name in (ABOUT, ARRAYS):
        assert (tmp_path / name).read_bytes() == (checkpoints[0] / name).read_bytes()
    assert read_pictures(tmp_path / "nowhere") is None


EXPLAINED = ("grad-cam", "saliency", "random", "random-cam", "constant", "inverse")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A network scored with two explainers and four controls."""
    run, model = make_run(tmp_path_factory.mktemp("several") / "run")
    score(run, metrics=("drop",), limit=20, explainers=EXPLAINED, batch_size=64)
    return run, model


def test_the_maps_of_every_row_are_those_that_were_scored(several: tuple[Path, Classifier]) -> None:
    """The maps of another way to make them, and the drop that the store holds of each image."""
    folder, model = several
    found = pool(folder)
    assert list(found.rows) == ["grad-cam", "saliency", "random", "random-cam"]
    assert [row.control for row in found.rows.values()] == [False, False, True, True]
    info = open_dataset("digits").info
    images = (torch.from_numpy(found.pixels) / 255 - info.mean[0]) / info.std[0]
    each = xeval.results(folder)
    for name in ("grad-cam", "saliency"):
        row, maps = found.rows[name], explain(model, images, explainer=name).numpy()
        assert np.allclose(row.maps * row.strongest[:, None, None, None], maps, atol=1e-3 * np.abs(maps).max())
        assert np.abs(row.maps).reshape(len(maps), -1).max(1) == pytest.approx(1)
        stored = each[each.explainer == name].set_index("image")["drop.mag@0.45"][found.ids]
        assert np.maximum(0, found.p0 - row.after) / found.p0 == pytest.approx(stored.to_numpy(), abs=2e-6)
    assert np.array_equal(found.rows["grad-cam"].after, found.after)
    assert found.rows["random"].maps.shape[2:] == (SIDE, SIDE)
    assert found.rows["random-cam"].maps.shape == found.maps.shape


def test_maps_of_several_explainers_survive_the_disk_and_need_not_be_there(
    several: tuple[Path, Classifier], tmp_path: Path
) -> None:
    found = pool(several[0])
    write_pictures(tmp_path, found)
    for name in (ABOUT, ARRAYS):
        assert (tmp_path / name).read_bytes() == (several[0] / name).read_bytes()
    about = {key: value for key, value in found.about.items() if key != "rows"}  # as earlier versions stored it
    (tmp_path / ABOUT).write_text(json.dumps(about))
    assert not pool(tmp_path).rows
    for wrong in ([["grad-cam", False]] * 2, [["grad-cam", 0]], [["a", False]] * 7, [5]):
        (tmp_path / ABOUT).write_text(json.dumps(about | {"rows": wrong}))
        with pytest.raises(DataError, match="cannot be shown"):
            read_pictures(tmp_path)


def test_the_maps_of_all_rows_are_bounded_together(
    several: tuple[Path, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for 64 values a map of 16×16 becomes 8×8 means of four; the probabilities stay those of the map."""
    monkeypatch.setattr(gallery, "VALUES", 64 * 4 * 20)
    small = pool(score(several[0], metrics=("drop",), limit=20, explainers=EXPLAINED, batch_size=64, out=tmp_path))
    large = pool(several[0])
    assert sum(row.maps.size for row in small.rows.values()) <= gallery.VALUES
    one, other = small.rows["saliency"], large.rows["saliency"]
    means = (other.maps.astype(np.float32) * other.strongest[:, None, None, None]).reshape(20, 1, 8, 2, 8, 2)
    assert np.allclose(
        one.maps * one.strongest[:, None, None, None], means.mean((3, 5)), atol=2e-3 * other.strongest.max()
    )
    assert one.after == pytest.approx(other.after)
    assert small.rows["random-cam"].maps.shape == large.rows["random-cam"].maps.shape


@pytest.mark.parametrize("fault", ["cut", "missing", "short", "unknown", "twice", "shown", "text"])
def test_a_damaged_pool_is_refused(checkpoints: list[Path], tmp_path: Path, fault: str) -> None:
    write_pictures(tmp_path, pool(checkpoints[0]))
    about, arrays = json.loads((tmp_path / ABOUT).read_text()), tmp_path / ARRAYS
    if fault == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-100])
    elif fault == "missing":
        arrays.unlink()
    else:
        changes = {
            "short": {"image_ids": about["image_ids"][:-1]},
            "unknown": {"thresholds": None},
            "twice": {"image_ids": ["a"] * len(about["image_ids"])},
            "shown": {"shown": 7},
            "text": {"explainer": 5},
        }
        (tmp_path / ABOUT).write_text(json.dumps(about | changes[fault]))
    with pytest.raises(DataError, match="cannot be shown"):
        read_pictures(tmp_path)
