"""The gallery on the page: which images, which pictures, and that nobody's names can do harm."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reports.synthetic import scores, write_run
from tests.reports.test_page import HOSTILE, Reader
from xeval.errors import DataError, UsageError
from xeval.reports.compare import Comparison, compare
from xeval.scoring.gallery import Pictures, write_pictures

CLASSES = ("cat", "dog")
IMAGES = 20
BEFORE = 0.8


def planted(
    found: dict[str, Any],
    after: Sequence[float],
    *,
    wrong: Sequence[int] = (),
    maps: np.ndarray | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    ids: Sequence[str] | None = None,
) -> Pictures:
    """A pool of images with these probabilities after masking; all are of class 0, ``wrong`` ones predicted as 1."""
    n, (_, height, width) = len(after), shape
    rng = np.random.default_rng(5)
    predicted = np.array([int(i in wrong) for i in range(n)])
    about = {
        "schema": "xeval.gallery/1",
        "checkpoint": found["checkpoint"]["sha256"],
        "data": found["dataset"].get("key"),
        "protocol": found["protocol"]["hash"],
        "seed": 0,
        "explainer": "grad-cam",
        "fill": "mean",
        "mask": "topk",
        "image_ids": list(ids or [f"image-{i:02d}" for i in range(n)]),
        "thresholds": ["0.15", "0.45"],
        "shown": 1,
    }
    return Pictures(
        about,
        pixels=rng.integers(0, 256, (n, *shape), np.uint8),
        masked=rng.integers(0, 256, (n, *shape), np.uint8),
        keep=np.zeros((n, 2, height, width), np.uint8),
        maps=np.ones((n, 1, 2, 2), np.float32) if maps is None else maps.astype(np.float32),
        label=np.zeros(n, np.int64),
        predicted=predicted,
        explained=predicted,
        p0=np.full(n, BEFORE),
        p1=np.stack([np.full(n, 0.5), np.array(after, float)], 1),
    )


def write(root: Path, method: str, seed: int = 0, classes: Sequence[str] = CLASSES, **about: Any) -> Path:
    """A scored run with a planted pool; ``about`` as in :func:`planted`."""
    found = scores(method, seed, 0.3)
    found["dataset"]["classes"] = list(classes)
    run = write_run(root, found)
    write_pictures(run, planted(found, **about))
    return run


def shown(made: Comparison) -> list[int]:
    """Numbers of the images on the page, in its order."""
    return [int(name[-2:]) for name in made.results["sections"][0]["gallery"]["images"]]


def pictures(made: Comparison) -> list[tuple[str, np.ndarray]]:
    """Alternative text and pixels of every picture of the page."""
    tags = [attributes for tag, attributes in Reader(made.page.read_text()).tags if tag == "img"]
    found = []
    for attributes in tags:
        source = attributes["src"] or ""
        assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", source)
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert not image.info  # no text, no date
        found.append((attributes["alt"] or "", np.asarray(image)))
    return found


# After masking supcon has lost k/20 of its 0.8 on image k, excon a power of a permutation of it: no two alike.
FALLS = np.arange(IMAGES) / IMAGES
OTHER = FALLS[(np.arange(IMAGES) * 7 + 3) % IMAGES] ** 1.7


@pytest.fixture
def two(runs: Path, no_figures: None) -> Path:
    write(runs, "supcon", after=BEFORE * (1 - FALLS), wrong=(4, 9, 11))
    write(runs, "excon", after=BEFORE * (1 - OTHER), wrong=(9, 15))
    return runs


@pytest.mark.parametrize("selection", ["random", "best", "worst", "median", "failures", None])
def test_planted_images_are_chosen(two: Path, tmp_path: Path, selection: str | None) -> None:
    difference = {i: float(OTHER[i] - FALLS[i]) for i in range(IMAGES)}
    middle = float(np.median(list(difference.values())))
    assert np.diff(sorted(difference.values())).min() > 1e-5
    expected = {
        "median": sorted(difference, key=lambda i: abs(difference[i] - middle))[:8],
        "random": list(range(8)),
        "best": sorted(difference, key=lambda i: difference[i])[:8],
        "worst": sorted(difference, key=lambda i: difference[i])[:-9:-1],
        "failures": [9, 4, 11, 15],
    }
    made = compare(two, tmp_path / "out", gallery=selection)
    if selection == "median":  # the two in the middle are equally near
        assert sorted(shown(made)[:2]) == sorted(expected["median"][:2])
        assert shown(made)[2:] == expected["median"][2:]
    else:
        assert shown(made) == expected[selection or "random"]
    assert made.results["sections"][0]["gallery"]["selection"] == (selection or "random")
    text = Reader(made.page.read_text()).text
    rule = {
        "best": "lowest drop max(0, p0 − p1)/p0 of excon minus that of supcon",
        "worst": "highest drop max(0, p0 − p1)/p0 of excon minus that of supcon",
        "median": f"nearest to the pool's median ({middle:.3f})",
        "failures": "the 4 misclassified by at least one checkpoint shown",
    }
    assert rule.get(selection or "", "drawn at random by seed 0") in text
    assert "chosen from a pool of 20" in text


def test_a_rise_is_no_negative_drop(runs: Path, tmp_path: Path, no_figures: None) -> None:
    """One method alone is ordered by its own drop, and images that rise are all alike."""
    write(runs, "ce", after=[0.9, 0.2, 0.99, 0.7, 0.4])
    assert shown(compare(runs, tmp_path / "a", gallery="best"))[2:] == [3, 4, 1]
    assert shown(compare(runs, tmp_path / "b", gallery="worst"))[:3] == [1, 4, 3]
    assert "lowest drop max(0, p0 − p1)/p0, lowest" in Reader((tmp_path / "a/report.html").read_text()).text


def test_undefined_probabilities_are_neither_best_nor_worst(runs: Path, tmp_path: Path, no_figures: None) -> None:
    write(runs, "ce", after=[0.5, float("nan"), 0.2], maps=np.full((3, 1, 2, 2), np.nan))
    for selection in ("best", "worst", "median"):
        assert sorted(shown(compare(runs, tmp_path / "out", gallery=selection))) == [0, 2]
    made = compare(runs, tmp_path / "out")
    assert "cat 0.80 → – =" in Reader(made.page.read_text()).text


def test_the_first_shared_seed_stands_for_a_method(runs: Path, tmp_path: Path, no_figures: None) -> None:
    for seed in (1, 2):
        write(runs, "supcon", seed, after=[0.1 * seed])
    for seed in (0, 2):
        write(runs, "excon", seed, after=[0.3 + 0.1 * seed])
    text = Reader(compare(runs, tmp_path / "out").page.read_text()).text
    assert "cat 0.80 → 0.20 ▼" in text
    assert "cat 0.80 → 0.50 ▼" in text
    assert text.count("seed 2, maps of 2×2") == 2


def test_hand_picked_images_are_called_so(two: Path, tmp_path: Path) -> None:
    made = compare(two, tmp_path / "out", gallery_ids=("image-17", "image-03", "image-17"))
    assert shown(made) == [17, 3]
    text = Reader(made.page.read_text()).text
    assert "Gallery hand-picked" in text
    assert "hand-picked, not a sample" in text
    assert "hand-picked" not in Reader(compare(two, tmp_path / "out").page.read_text()).text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"gallery_ids": ("image-03", "elsewhere\x1b[31m")}, "has no image elsewhere;.*pool of 20"),
        ({"gallery_ids": ()}, "names no image"),
        ({"gallery_ids": ("image-03",), "gallery": "best"}, "both given"),
        ({"gallery": "prettiest"}, "unknown selection of the gallery"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_is_written(
    two: Path, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as refused:
        compare(two, tmp_path / "out", **options)
    assert "\x1b" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert not (two / "comparison.toml").exists()


def test_pictures_are_the_planted_pixels(runs: Path, tmp_path: Path, no_figures: None) -> None:
    """Red where a map speaks for the class, blue where against, the grey image where it is silent; one scale a row."""
    maps = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    for method, size in (("supcon", 1.0), ("excon", 0.5)):
        write(runs, method, after=[0.4], maps=maps * size, shape=(3, 2, 2))
    pool = planted(scores("supcon", 0, 0.3), [0.4], shape=(3, 2, 2))
    found = pictures(compare(runs, tmp_path / "out"))
    original, masked = (pixels[0].transpose(1, 2, 0) for pixels in (pool.pixels, pool.masked))
    assert [alt.partition(";")[0] for alt, _ in found] == [
        "image image-00, class cat",
        "colour bar from −1 to 1",
        *["map over the image", "what the mask leaves"] * 2,
    ]
    assert found[2][0].endswith("predicted cat, softmax of cat falls from 0.80 to 0.40")
    assert np.array_equal(found[0][1], original)
    assert np.array_equal(found[3][1], masked)
    assert np.array_equal(found[5][1], masked)
    grey = original @ [0.299, 0.587, 0.114]
    red, blue = np.array([180, 4, 38]), np.array([59, 76, 192])  # the ends of the map coolwarm
    strong, weak = found[2][1].astype(float), found[4][1].astype(float)
    assert np.abs(strong[0, 0] - (0.85 * red + 0.15 * grey[0, 0])).max() <= 1
    assert np.abs(strong[1, 1] - (0.85 * blue + 0.15 * grey[1, 1])).max() <= 1
    for silent in ((0, 1), (1, 0)):
        assert np.abs(strong[silent] - grey[silent]).max() <= 0.5
        assert np.abs(weak[silent] - grey[silent]).max() <= 0.5
    assert np.abs(weak[0, 0] - grey[0, 0]).sum() < np.abs(strong[0, 0] - grey[0, 0]).sum()
    bar = found[1][1].astype(int)
    assert (bar[:, 0, 2] > bar[:, 0, 0]).all()  # blue on the left
    assert (bar[:, -1, 0] > bar[:, -1, 2]).all()  # red on the right


def test_unsigned_maps_get_a_sequential_scale(runs: Path, tmp_path: Path, no_figures: None) -> None:
    write(runs, "ce", after=[0.4], maps=np.array([[[[3.0, 0.0], [0.0, 1.0]]]]))
    made = compare(runs, tmp_path / "out")
    assert pictures(made)[1][0] == "colour bar from 0 to 3"
    assert "yellow for the class" in Reader(made.page.read_text()).text


def test_arrows_numbers_and_failures_are_written_out(runs: Path, tmp_path: Path, no_figures: None) -> None:
    write(runs, "ce", after=[0.91, 0.8, 0.7996, 0.8 + 1e-7], wrong=(1,))
    made = compare(runs, tmp_path / "out")
    text = Reader(made.page.read_text()).text
    assert "cat 0.80 → 0.91 ▲" in text
    assert "dog 0.80 → 0.80 =✗ wrong class" in text
    assert "cat 0.8000 → 0.7996 ▼" in text
    assert text.count("✗") == 1
    assert [alt.rpartition("softmax of ")[2] for alt, _ in pictures(made)[2::4]] == [
        "cat rises from 0.80 to 0.91",
        "dog stays from 0.80 to 0.80",
        "cat falls from 0.8000 to 0.7996",
        "cat stays from 0.80 to 0.80",
    ]


@pytest.mark.fault("R1")
def test_hostile_classes_and_ids_are_text(runs: Path, tmp_path: Path, no_figures: None) -> None:
    write(runs, "ce", classes=[HOSTILE[0], HOSTILE[6]], after=[0.4] * 7, wrong=(2,), ids=HOSTILE)
    made = compare(runs, tmp_path / "out", gallery_ids=HOSTILE)
    text = made.page.read_text()
    page = Reader(text)
    for tag, name, value in page.attributes():
        assert name != "style"
        assert not name.startswith("on")
        if name == "src":
            assert tag == "img"
            assert value.startswith("data:image/png;base64,")
    assert {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "form"} == set()
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert sum(tag == "img" for tag, _ in page.tags) == 7 * 4
    assert HOSTILE[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not {"\x1b", "\u202e"} & set(text)
    assert made.results["sections"][0]["gallery"]["images"] == HOSTILE  # the names themselves, as JSON


@pytest.mark.fault("R12")
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 5, 9), (3, 300, 150), (2, 6, 6)])
def test_one_image_of_any_shape(runs: Path, tmp_path: Path, no_figures: None, shape: tuple[int, int, int]) -> None:
    write(runs, "ce", after=[0.4], shape=shape)
    made = compare(runs, tmp_path / "out", gallery="median")
    _, height, width = shape
    original = pictures(made)[0][1]
    ratio = original.shape[0] / original.shape[1]
    assert ratio == pytest.approx(height / width)
    assert max(original.shape[:2]) <= 128
    shown_as = next(attributes for tag, attributes in Reader(made.page.read_text()).tags if tag == "img")
    tall, wide = int(shown_as["height"] or 0), int(shown_as["width"] or 0)
    assert 64 <= max(tall, wide) <= 128
    assert tall % original.shape[0] == wide % original.shape[1] == 0  # whole multiples: pixels stay squares
    assert f"Pictures have {width}×{height} pixels" in Reader(made.page.read_text()).text


@pytest.mark.fault("R6")
def test_a_large_gallery_shrinks_and_says_so(runs: Path, tmp_path: Path, no_figures: None) -> None:
    """Nine methods on noise, which no PNG compresses: about 1 MB an image."""
    for number in range(9):
        write(runs, f"method{number}", after=[0.4] * 8, shape=(3, 128, 128))
    made = compare(runs, tmp_path / "out")
    assert 4_000_000 < made.page.stat().st_size <= 8_000_000
    assert shown(made) == [0, 1, 2, 3]
    assert len(pictures(made)) == 4 * (2 + 2 * 9)
    assert (
        "4 of 8 images are shown: with more, the page would be larger than 8 MB." in Reader(made.page.read_text()).text
    )
    assert json.loads((made.out / "results.json").read_text()) == made.results


def test_where_nothing_fits_nothing_is_shown(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xeval.reports.gallery.LIMIT", 1000)
    made = compare(two, tmp_path / "out")
    text = Reader(made.page.read_text()).text
    assert pictures(made) == []
    assert "0 of 8 images are shown" in text
    assert "No image." in text


@pytest.mark.fault("R8")
def test_the_same_pools_give_the_same_bytes(two: Path, tmp_path: Path) -> None:
    first, second = (compare(two, tmp_path / name, gallery="worst").page.read_bytes() for name in "ab")
    assert first == second


def _without(run: Path) -> None:
    (run / "gallery.json").unlink()


def _stale(run: Path) -> None:
    about = json.loads((run / "gallery.json").read_text())
    (run / "gallery.json").write_text(json.dumps(about | {"protocol": "another"}))


def _renamed(run: Path) -> None:
    about = json.loads((run / "gallery.json").read_text())
    (run / "gallery.json").write_text(json.dumps(about | {"image_ids": [f"x{i}" for i in range(IMAGES)]}))


def test_without_a_pool_there_is_no_gallery(two: Path, tmp_path: Path) -> None:
    _without(two / "digits-excon-s0")
    made = compare(two, tmp_path / "out")
    assert made.results["sections"][0]["gallery"] is None
    assert 'id="g-' not in made.page.read_text()


def test_no_picture_is_in_a_report_that_wants_none(two: Path, tmp_path: Path) -> None:
    with_pictures = compare(two, tmp_path / "with").page.read_text()
    made = compare(two, tmp_path / "out", gallery="none")
    assert "data:image" in with_pictures
    assert "data:image" not in made.page.read_text()
    assert made.results["sections"][0]["gallery"] is None


@pytest.mark.parametrize(
    ("harm", "problem"), [(_stale, "belongs to other scores"), (_renamed, "hold different images")]
)
def test_pools_that_do_not_belong_are_refused(
    two: Path, tmp_path: Path, harm: Callable[[Path], None], problem: str
) -> None:
    harm(two / "digits-excon-s0")
    with pytest.raises(DataError, match=problem):
        compare(two, tmp_path / "out")
