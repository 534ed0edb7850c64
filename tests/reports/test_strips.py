"""``xeval explain``: the numbers are the network's, the files are what was asked for, mistakes are told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xeval
from tests.commands import here
from tests.runs import make_run
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import DatasetInfo, open_dataset
from xeval.errors import DataError, UsageError, XevalError
from xeval.explainers.cam import grad_cam, upsample
from xeval.models import Classifier
from xeval.perturb.masks import kept
from xeval.reports import explain as strips_of
from xeval.reports.explain import _pixels, explain
from xeval.reports.strips import Scale, Strip, picture, scale_of

CLASSES = ("otter", "seal", "tug", "$x^2$")
COLOUR = DatasetInfo("shapes-like", CLASSES, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 3, 32)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    return make_run(tmp_path_factory.mktemp("grey") / "digits-excon-s0", seed=3)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    return make_run(tmp_path_factory.mktemp("colour") / "run", seed=1, info=COLOUR)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A wide photograph of noise under a gradient."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 128, (50, 90, 3)) + np.linspace(0, 127, 90)[None, :, None]
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def before_and_after(model: Classifier, x: Tensor, keep: float) -> tuple[int, float, float]:
    """Predicted class and its softmax, clean and masked, written from the definitions (no ties)."""
    with torch.no_grad():
        clean = model(x).double().softmax(1)[0]
    target = int(clean.argmax())
    side = x.shape[-1]
    heat = upsample(grad_cam(model, model.pooled_layer, x, torch.tensor([target])), (side, side))[0, 0].flatten()
    best = heat.argsort(descending=True)[: kept(keep, side * side)]
    assert heat[best].min() > heat[[i for i in range(side * side) if i not in set(best.tolist())]].max()
    masked = torch.zeros_like(x).flatten(2)
    masked[..., best] = x.flatten(2)[..., best]
    with torch.no_grad():
        after = model(masked.reshape(x.shape)).double().softmax(1)[0]
    return target, float(clean[target]), float(after[target])


def told(line: str) -> tuple[str, float, float]:
    found = re.fullmatch(
        r".*: predicted (.+), softmax ([\d.]+) → ([\d.]+) [▲▼=] with [\d.]+ % of the pixels kept", line
    )
    assert found is not None, line
    return found[1], float(found[2]), float(found[3])


@pytest.mark.parametrize("keep", [0.45, 0.2])
def test_a_colour_photograph_is_cut_normalised_and_scored(
    colour: tuple[Path, Classifier], photo: Path, tmp_path: Path, keep: float
) -> None:
    run, model = colour
    image = Image.open(photo).resize((32, 32), Image.Resampling.BILINEAR, box=(20, 0, 70, 50))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    x = (pixels - torch.tensor(COLOUR.mean)[:, None, None]) / torch.tensor(COLOUR.std)[:, None, None]
    target, before, after = before_and_after(model, x, keep)
    name, p0, p1 = told(explain(run, [photo], tmp_path / "strip.png", keep=keep).lines[0])
    assert name == CLASSES[target]
    assert (p0, p1) == (pytest.approx(before, abs=0.0051), pytest.approx(after, abs=0.0051))
    assert abs(before - after) > 0.001


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_picture_is_resized_as_the_images_that_are_scored(photo: Path, method: str) -> None:
    box = (20, 0, 70, 50)
    wanted = Image.open(photo).resize((32, 32), Image.Resampling[method.upper()], box=box)
    found = _pixels(photo.read_bytes(), photo, replace(COLOUR, interpolation=method))
    assert np.array_equal(found, np.array(wanted).transpose(2, 0, 1))


def test_an_image_of_the_data_set_gets_what_it_got_when_scored(grey: tuple[Path, Classifier], tmp_path: Path) -> None:
    run, model = grey
    split = open_dataset("digits").split("test")
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(split.read([i])[0, 0].numpy()).save(path)
    made = explain(run, paths, tmp_path / "strips.png")
    for i, line in enumerate(made.lines):
        x = (split.read([i]) / 255 - split.info.mean[0]) / split.info.std[0]
        with torch.no_grad():
            clean = model(x).double().softmax(1)[0]
        name, p0, _ = told(line)
        assert name == split.info.classes[int(clean.argmax())]
        assert p0 == pytest.approx(float(clean.max()), abs=0.0051)
        assert line.startswith(f"{paths[i]}: ")


def test_files_of_every_kind_are_the_same_bytes_twice(
    colour: tuple[Path, Classifier], photo: Path, tmp_path: Path
) -> None:
    other = tmp_path / "$x_{2}$ \x1b[31m.png"
    Image.open(photo).rotate(90).save(other)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for suffix, start in starts.items():
        made = [explain(colour[0], [photo, other], tmp_path / f"{n}.{suffix}") for n in "ab"]
        first, second = (one.files[0].read_bytes() for one in made)
        assert first == second
        assert first.startswith(start)
        assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate|Created with", first)
        assert not any("\x1b" in line for line in made[0].lines)
    assert b"$x_{2}$" in (tmp_path / "a.svg").read_bytes()  # printed, not typeset


def test_a_folder_gets_one_file_a_picture(colour: tuple[Path, Classifier], photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "other" / "photo.png"
    twin.parent.mkdir()
    twin.write_bytes(photo.read_bytes())
    made = explain(colour[0], [photo, twin, photo], tmp_path / "strips")
    assert [path.name for path in made.files] == ["photo-1.png", "photo-2.png"]
    assert len(made.lines) == 2
    assert all(Image.open(path).size[0] > 900 for path in made.files)


def test_a_bare_file_needs_the_name_of_its_data_set(grey: tuple[Path, Classifier], photo: Path, tmp_path: Path) -> None:
    run, model = grey
    bare = tmp_path / "bare.safetensors"
    write_tensors(bare, model.state_dict())
    with pytest.raises(UsageError, match="carries no description"):
        explain(bare, [photo], tmp_path / "a.png")
    found = explain(bare, [photo], tmp_path / "a.png", dataset="digits")
    *lines, constants = found.lines
    assert tuple(lines) == explain(run, [photo], tmp_path / "b.png").lines
    assert constants.startswith("images are normalised with mean")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("images", "options", "kind", "problem"),
    [
        (["nowhere.png"], {}, UsageError, "nowhere.png cannot be read"),
        (["."], {}, UsageError, "cannot be read"),
        (["broken.png"], {}, DataError, "broken.png is damaged|broken.png is not an image"),
        (["photo.png"], {"out": "strip.jpg"}, UsageError, "cannot write .jpg"),
        (["photo.png"], {"out": "photo.png"}, UsageError, "overwritten by its own strip"),
        (["photo.png"], {"out": "."}, UsageError, "overwritten by its own strip"),
        (["photo.png"], {"explainer": "grad-cma"}, UsageError, "unknown explainer"),
        (["photo.png"], {"explainer": "random"}, UsageError, "only control explainers"),
        (["photo.png"], {"keep": 45.0}, UsageError, "did you mean 0.45"),
        (["photo.png"], {"layer": "nothing"}, UsageError, "nothing"),
        ([f"{i}.png" for i in range(31)], {}, UsageError, "do not fit into one file"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    colour: tuple[Path, Classifier],
    photo: Path,
    images: list[str],
    options: dict[str, object],
    kind: type[XevalError],
    problem: str,
) -> None:
    folder = photo.parent
    (folder / "broken.png").write_bytes(photo.read_bytes()[:200])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = folder / str(options.get("out", "strip.png"))
    with pytest.raises(kind, match=problem):
        explain(colour[0], [folder / name for name in images], out, **{k: v for k, v in options.items() if k != "out"})  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_command(
    grey: tuple[Path, Classifier], photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    code, shown, _ = here(capsys, "explain", str(grey[0]), photo.name, "--keep", "0.3", "--explainer", "saliency")
    assert code == 0
    assert told(shown.splitlines()[0])[1] > 0.1
    assert "30 % of the pixels kept" in shown
    assert shown.splitlines()[1] == "strip.png"
    assert Path("strip.png").is_file()
    code, _, last = here(capsys, "explain", str(grey[0]), "nowhere.png")
    assert code == 2
    assert last.startswith("xeval: error[E2")
    assert here(capsys, "explain", "nowhere", photo.name)[0] == 2


@pytest.mark.parametrize(
    ("before", "after", "scores"),
    [
        (0.83, 0.91, "0.83 → 0.91 ▲"),
        (0.91, 0.83, "0.91 → 0.83 ▼"),
        (0.5, 0.5 + 9e-7, "0.50 → 0.50 ="),
        (1 - 1e-4, 1 - 3e-4, "0.9999 → 0.9997 ▼"),
        (float("nan"), 0.5, "– → 0.50 ="),
    ],
)
def test_scores_are_told_apart(before: float, after: float, scores: str) -> None:
    pixels = np.zeros((2, 2, 1), np.uint8)
    assert Strip(pixels, np.zeros((2, 2), np.float32), pixels, "a", "a", before, after).scores == scores


def test_a_scale_is_filled_by_the_strongest_finite_value() -> None:
    one, two = np.array([[1.0, np.nan]]), np.array([[-3.0, np.inf]])
    assert scale_of([one, two], signed=True) == Scale(3.0, signed=True)
    assert scale_of([np.full((1, 1), np.nan)], signed=True).limit == 0
    assert Scale(3.0, signed=True).ticks == ("−3", "0", "3")
    assert Scale(0.123456, signed=False).ticks == ("0", "0.12")
    silent = Scale(0.0, signed=True).over(np.full((1, 1, 1), 77, np.uint8), np.zeros((1, 1)))
    assert silent.tolist() == [[[77, 77, 77]]]


@pytest.mark.parametrize(
    ("side", "stored", "shown"),
    [(1, 1, 96), (16, 16, 96), (28, 28, 84), (32, 32, 96), (64, 64, 128), (96, 96, 96), (500, 128, 128)],
)
def test_pictures_are_enlarged_by_whole_factors_and_reduced_at_most_to_128(side: int, stored: int, shown: int) -> None:
    found = picture(np.zeros((side, side, 3), np.uint8))
    assert (found.width, found.height) == (shown, shown)
    assert found.width % stored == 0


SEVERAL = ("grad-cam", "saliency", "random", "constant")


def test_several_explainers_stand_side_by_side(
    colour: tuple[Path, Classifier], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The softmax below each map is that of the explainer alone; every map fills one and the same scale."""
    drawn: list[dict[str, Strip]] = []
    draw = strips_of.side_by_side
    monkeypatch.setattr(strips_of, "side_by_side", lambda found, titles: (drawn.extend(found), draw(found, titles))[1])
    made = explain(colour[0], [photo], tmp_path / "s.svg", explainers=SEVERAL)
    assert list(drawn[0]) == list(SEVERAL)
    for name in ("grad-cam", "saliency"):
        alone = explain(colour[0], [photo], tmp_path / "one.png", explainer=name).lines[0]
        assert f"{name} {alone.partition('softmax ')[2].partition(' with')[0]}" in made.lines[0]
        assert np.abs(drawn[0][name].heat).max() == pytest.approx(1, abs=0.2)
    assert drawn[0]["constant"].heat == pytest.approx(1)
    text = re.sub(r"\s*\n\s*", "", (tmp_path / "s.svg").read_text())
    assert all(f">{name}</text>" in text for name in SEVERAL)
    again = explain(colour[0], [photo], tmp_path / "t.svg", explainers=SEVERAL)
    assert again.files[0].read_bytes() == made.files[0].read_bytes()


def test_twelve_explainers_take_three_lines(colour: tuple[Path, Classifier], photo: Path, tmp_path: Path) -> None:
    many = [f"e{i}" for i in range(12)]
    strip = Strip(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32), None, "a", "a", 0.5, 0.4)
    figure = strips_of.side_by_side([dict.fromkeys(many, strip)] * 2, ["x", "y"])
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title for title in titles if title in many] == many * 2
    assert len(figure.axes) == 2 * 3 * 6
    with pytest.raises(UsageError, match="11 strips do not fit into one file"):
        explain(colour[0], [tmp_path / f"{i}.png" for i in range(11)], tmp_path / "out.png", explainers=many)


def test_one_explainer_or_several_but_not_both(colour: tuple[Path, Classifier], photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--explainer and --explainers were both given"):
        explain(colour[0], [photo], tmp_path / "a.png", explainer="lrp", explainers=["saliency"])
    with pytest.raises(UsageError, match="names no explainer"):
        explain(colour[0], [photo], tmp_path / "a.png", explainers=[])
    with pytest.raises(UsageError, match="did you mean 'saliency'"):
        explain(colour[0], [photo], tmp_path / "a.png", explainers=["grad-cam", "salience"])


def test_several_on_the_command_line(
    grey: tuple[Path, Classifier], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    out = tmp_path / "strip.pdf"
    command = ("explain", str(grey[0]), str(tmp_path / "a.png"), "--explainers", "grad-cam,edge", "--out", str(out))
    code, shown, _ = here(capsys, *command)
    assert code == 0
    assert ", grad-cam 0." in shown
    assert ", edge 0." in shown
    assert out.read_bytes().startswith(b"%PDF")


def test_maps_of_tensors_are_returned_and_drawn(grey: tuple[Path, Classifier], tmp_path: Path) -> None:
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    found = xeval.explain(grey[1], images, explainers=["saliency", "grad-cam"], out=tmp_path / "maps.png")
    assert list(found) == ["saliency", "grad-cam"]
    for name, maps in found.items():
        assert torch.equal(maps, xeval.explain(grey[1], images, explainer=name))
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
