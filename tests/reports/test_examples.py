"""The committed examples: complete, small, and without a picture from outside the data that xeval ships."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xeval.data import open_dataset
from xeval.reports.strips import grey

EXAMPLES = Path(__file__).parents[2] / "reports" / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
SHIPPED = ("digits", "photo10", "shapes")
LIMIT = 1_500_000
RASTER = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".safetensors", ".sqlite"}
PICTURE = re.compile(r'<img src="data:image/png;base64,([^"]*)"[^>]*? alt="([^"]*)"')
ROW = re.compile(r"<tr><th scope=\"row\"><img.*?</tr>", re.DOTALL)

every = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


RESULTS = re.compile(r'<script type="application/json" id="results">(.*?)</script>', re.DOTALL)


def results(folder: Path) -> dict[str, object]:
    """What the page's download button saves."""
    text = RESULTS.search((folder / "report.html").read_text())
    assert text is not None
    found: dict[str, object] = json.loads(text[1])
    return found


def pixels(encoded: str) -> NDArray[np.int64]:
    """H×W×C."""
    array = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(np.int64)
    return array if array.ndim == 3 else array[..., None]


def has_pictures(folder: Path) -> bool:
    return "data:image/" in (folder / "report.html").read_text()


def strangers(page: str, dataset: str) -> list[str]:
    """What a page embeds that is not the image its label names, a masked form of it, a map over it or a colour bar."""
    side = pixels(PICTURE.findall(page)[0][0]).shape[0]
    split = open_dataset(dataset, size=side).split("test")
    place = {name: number for number, name in enumerate(split.ids)}
    found = []
    for row in ROW.findall(page):
        (first, alt), *others = PICTURE.findall(row)
        name = re.fullmatch(r"image (.*), class .*", alt)
        known = name is not None and name[1] in place
        original = split.read([place[name[1]]])[0].numpy().transpose(1, 2, 0).astype(np.int64) if known else None  # type: ignore[index]
        if original is None or not np.array_equal(pixels(first), original):
            found.append(alt)
            continue
        for source, text in others:
            shown = pixels(source)
            if text.startswith("what the mask leaves"):
                changed = shown[(shown != original).any(2)]
                if len(np.unique(changed, axis=0)) > 1:  # one colour, the fill, in the place of what is removed
                    found.append(text)
            elif text.startswith("map over the image"):
                rest = shown - 0.15 * grey(original)[..., None]  # at least 15 % of the picture shows through
                if rest.min() < -1 or shown.shape[:2] != original.shape[:2]:
                    found.append(text)
            elif not text.startswith("colour bar"):
                found.append(text)
    outside = page.count("data:image/") - sum(len(PICTURE.findall(row)) for row in ROW.findall(page))
    return [*found, *["a picture outside the gallery"] * outside]


def test_there_are_examples() -> None:
    assert [folder.name for folder in FOLDERS] == ["digits", "photo10-explainers", "tiny-imagenet-a20"]


@every
def test_each_is_complete_and_small(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= LIMIT
    assert (folder / "report.html").stat().st_size > 100_000
    assert results(folder)["schema"] == "xeval.comparison/1"
    page = (folder / "report.html").read_text()
    for heading in ("Headline", "Threats to validity", "Methods paragraph", "Provenance"):
        assert heading in page


@every
def test_no_picture_comes_from_outside(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.suffix.lower() in RASTER]
    for path in folder.rglob("*.svg"):
        assert "<image" not in path.read_text()
    for path in folder.rglob("*.pdf"):
        assert b"/Subtype /Image" not in path.read_bytes()
    page = (folder / "report.html").read_text()
    assert "<image" not in page
    if has_pictures(folder):
        (section,) = results(folder)["sections"]  # type: ignore[misc]
        assert section["dataset"] in SHIPPED
        assert ROW.findall(page)
        assert not strangers(page, section["dataset"])


def test_a_foreign_picture_would_be_found() -> None:
    """The digits page with one picture exchanged, added to a row, and added outside the gallery."""
    page = (EXAMPLES / "digits" / "report.html").read_text()
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file, format="PNG")
    foreign = base64.b64encode(file.getvalue()).decode()
    source, alt = next(found for found in PICTURE.findall(page) if found[1].startswith("image "))
    masked = next(source for source, text in PICTURE.findall(page) if text.startswith("what the mask leaves"))
    assert strangers(page.replace(source, foreign, 1), "digits") == [alt]
    assert strangers(page.replace(masked, foreign, 1), "digits")
    assert strangers(page.replace("</main>", f'<img src="data:image/png;base64,{foreign}" alt="x"></main>'), "digits")
    assert strangers(page, "shapes")
