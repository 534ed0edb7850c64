"""Maps that were made elsewhere: rows by the images' ids, what only an explainer gives, and files that are none."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import xeval
from tests import scenes
from tests.commands import here
from tests.runs import make_run
from xeval.data import open_dataset
from xeval.errors import DataError, UsageError
from xeval.explainers import CONTROLS, EXPLAINERS
from xeval.metrics import METRICS, Explained
from xeval.scoring.module import Normalization
from xeval.scoring.precomputed import PrecomputedMaps

PLAIN = Normalization((0.0,), (1.0,))
N, SIDE, CLASSES = 7, 12, 3
ANEW = {"ssim", "sensitivity", "lipschitz", "contrast", "mprt", "logit"}
IDS = [str(number) for number in range(N)]


@pytest.fixture(scope="module")
def model(images: Tensor) -> nn.Module:
    """A small network that predicts several classes: its mean logits are 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU())
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES))
        network = nn.Sequential(*layers, *head).eval()
    with torch.no_grad():
        head[-1].bias -= network(images).mean(0)
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(N, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classes(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(images).argmax(1)
    assert len(found.unique()) > 1
    return found


@pytest.fixture(scope="module")
def maps(model: nn.Module, images: Tensor) -> Tensor:
    return xeval.explain(model, images)


def scored(model: nn.Module, images: Tensor, *explainers: Any, **options: Any) -> pd.DataFrame:
    draw = torch.Generator().manual_seed(1)
    objects = torch.rand(N, SIDE, SIDE, generator=draw) > 0.7
    data = DataLoader(TensorDataset(images, torch.arange(N) % CLASSES, objects), batch_size=4)
    chosen = {"metrics": "complexity,drop", "normalization": PLAIN, "batch_size": 8, **options}
    return xeval.score(model, data, explainers=list(explainers), **chosen)


def row(folder: Path, name: str) -> pd.DataFrame:
    values = xeval.results(folder)
    return values[values.explainer == name].set_index("image").drop(columns="explainer")


# ---- rows


ALL = ("drop", "deletion", "insertion", "infidelity", "faithcorr", "pixelflip", "complexity", "pointing", "relevance")
ALL = (*ALL, "topk", "fgsm", *sorted(ANEW))


def test_maps_of_grad_cam_from_a_file_in_any_order_are_grad_cam_bit_by_bit(
    model: nn.Module, images: Tensor, classes: Tensor, maps: Tensor, tmp_path: Path
) -> None:
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    about = {"ids": json.dumps([IDS[i] for i in order])}
    save_file({"maps": maps[order], "targets": classes[order]}, tmp_path / "a.safetensors", about)
    stored = PrecomputedMaps("stored", tmp_path / "a.safetensors")
    # without the control inverse, which shares passes with grad-cam, and so makes other batches of them
    frame = scored(model, images, "grad-cam", stored, "random", metrics=ALL, out=tmp_path / "out")
    computed, found = row(tmp_path / "out", "grad-cam"), row(tmp_path / "out", "stored")
    lost = {name for name in computed if name.partition(".")[0] in ANEW}
    assert len(lost) == 12
    assert found[sorted(lost)].isna().all(axis=None)
    there = [name for name in computed if name not in lost]
    assert len(there) > 25
    pd.testing.assert_frame_equal(found[there], computed[there], check_exact=True)
    summary = frame.attrs["summary"]
    assert set(summary["scores"]["grad-cam"]) - set(summary["scores"]["stored"]) == lost
    assert summary["curves"]["deletion"]["stored"] == summary["curves"]["deletion"]["grad-cam"]
    assert "stored" not in summary["cost"]["explainers"]  # its look-up is not what an explanation costs
    told = [line for line in summary["conventions"] if line.startswith("stored: ")]
    assert told == [
        "stored: maps made elsewhere, 6×6, of the class that they say; what they took to make is not known; it has no "
        "value of what explains again: contrast, lipschitz, logit, mprt, sensitivity, ssim"
    ]


def test_batches_resuming_and_positions_change_nothing(
    model: nn.Module, images: Tensor, maps: Tensor, tmp_path: Path
) -> None:
    """All maps in the order of the split, the same with ids turned round and one image a batch, some, lost ones."""
    scored(model, images, PrecomputedMaps("mine", maps), out=tmp_path / "a")
    turned = PrecomputedMaps("mine", maps.flip(0)[:, 0].numpy(), ids=IDS[::-1])
    scored(model, images, turned, out=tmp_path / "b", batch_size=1)
    first, second = row(tmp_path / "a", "mine"), row(tmp_path / "b", "mine")
    pd.testing.assert_frame_equal(first, second, check_exact=False, atol=1e-6, rtol=0)
    same = [name for name in first if name.startswith("complexity.")]
    pd.testing.assert_frame_equal(first[same], second[same], check_exact=True)  # these pass nothing
    scored(model, images, PrecomputedMaps("mine", maps), out=tmp_path / "c", limit=3)
    some = row(tmp_path / "c", "mine")
    assert len(some) == 3
    pd.testing.assert_frame_equal(some, first.loc[some.index], check_exact=False, atol=1e-6, rtol=0)
    with sqlite3.connect(tmp_path / "a" / "scores.sqlite") as store:
        lost = "cell IN (SELECT id FROM cell WHERE explainer = 'mine' AND metric = 'drop')"
        assert store.execute(f"DELETE FROM chunk WHERE {lost}").rowcount
    scored(model, images, PrecomputedMaps("mine", maps), out=tmp_path / "a")
    pd.testing.assert_frame_equal(row(tmp_path / "a", "mine"), first, check_exact=True)


def test_rows_are_known_by_the_content_of_the_maps(
    model: nn.Module, images: Tensor, maps: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, passed = tmp_path / "out", []
    monkeypatch.setattr("xeval.scoring.scorer.Scorer.score_chunk", _counting(passed))

    def mine(values: Tensor, **more: Any) -> pd.Series:
        passed.clear()
        scored(model, images, PrecomputedMaps("mine", values, **more), "random", metrics="complexity", out=out)
        return row(out, "mine")["complexity.gini"]

    first = mine(maps, ids=IDS)
    assert passed
    other = mine(maps.square(), ids=IDS)
    assert passed
    assert (first != other).all()
    pd.testing.assert_series_equal(mine(maps.flip(0), ids=IDS[::-1]), first)  # the same maps in another order
    assert not any(passed)  # the rehearsal alone, without a metric
    summary = json.loads((out / "scores.json").read_text())
    assert summary["scores"]["mine"]["complexity.gini"]["mean"] == pytest.approx(first.mean(), abs=1e-12)


def _counting(seen: list[int]) -> Callable[..., Any]:
    from xeval.scoring.scorer import Scorer

    original = Scorer.score_chunk

    def score_chunk(self: Scorer, chunk: Any, tasks: Any, pixels: Any = None) -> Any:
        seen.append(len(tasks))
        return original(self, chunk, tasks, pixels) if tasks else {}

    return score_chunk


def test_larger_maps_are_sampled_as_torch_samples_them(
    model: nn.Module, images: Tensor, maps: Tensor, tmp_path: Path
) -> None:
    large = torch.rand(N, 1, 2 * SIDE, 3 * SIDE, generator=torch.Generator().manual_seed(2))
    fitted = F.interpolate(large, (SIDE, SIDE), mode="bilinear", align_corners=False)
    rows = PrecomputedMaps("large", large), PrecomputedMaps("fitted", fitted)
    scored(model, images, *rows, metrics="complexity", out=tmp_path / "out")
    tables = [row(tmp_path / "out", name).drop(columns="complexity.native") for name in ("large", "fitted")]
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-5)


def test_units_are_those_that_are_said(model: nn.Module, images: Tensor, tmp_path: Path) -> None:
    gradients = xeval.explain(model, images, explainer="input-x-gradient")
    stored = PrecomputedMaps("stored", gradients, units=EXPLAINERS["input-x-gradient"].units)
    save_file({"maps": gradients}, tmp_path / "a.safetensors", {"units": "gradient"})
    wrong = PrecomputedMaps("wrong", tmp_path / "a.safetensors")
    scored(model, images, "input-x-gradient", stored, wrong, metrics="infidelity", out=tmp_path / "out")
    tables = [row(tmp_path / "out", name) for name in ("input-x-gradient", "stored", "wrong")]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert not tables[0].equals(tables[2])


@pytest.mark.fault("S32")
def test_a_map_of_another_class_has_no_value_and_is_counted(
    model: nn.Module, images: Tensor, classes: Tensor, maps: Tensor, tmp_path: Path
) -> None:
    targets = classes.clone()
    targets[[2, 5]] = (targets[[2, 5]] + 1) % CLASSES
    mine = PrecomputedMaps("mine", maps, targets=targets)
    told = r"of mine has no value for 2 of 7 images \(map of another class: 2\), first 2, 5"
    with pytest.raises(DataError, match=told):
        scored(model, images, mine, "inverse", metrics="complexity", out=tmp_path / "out")
    lacking = row(tmp_path / "out", "mine")["complexity.gini"].isna()
    assert list(lacking[lacking].index) == ["2", "5"]
    inverse = row(tmp_path / "out", "inverse")["complexity.gini"].isna()
    assert inverse[["2", "5"]].all()  # a map of it is one of another class, too
    frame = scored(model, images, PrecomputedMaps("mine", maps, targets=classes), metrics="complexity")
    assert (frame[frame.explainer == "mine"]["n"] == N).all()
    labels = (torch.arange(N) % CLASSES).tolist()
    frame = scored(model, images, PrecomputedMaps("mine", maps, targets=labels), metrics="complexity", target="label")
    assert (frame[frame.explainer == "mine"]["n"] == N).all()


def test_what_maps_alone_cannot_give_is_left_out_and_said(model: nn.Module, images: Tensor, maps: Tensor) -> None:
    """As the reference, maps have no shuffled and untrained control; as the only row, no metric that explains again."""
    mine = PrecomputedMaps("mine", maps)
    frame = scored(model, images, mine, metrics=None)
    summary = frame.attrs["summary"]
    assert set(summary["scores"]) == {"mine", *CONTROLS} - {"shuffled", "untrained"}
    assert not {name.partition(".")[0] for name in summary["columns"]} & ANEW
    assert [note for note in summary["dataset"]["notes"] if "left out" in note] == [
        "left out, as mine cannot explain again: ssim, sensitivity, lipschitz, contrast, shuffled, untrained"
    ]
    frame = scored(model, images, mine, "grad-cam", metrics="lipschitz,drop")
    scores = frame.attrs["summary"]["scores"]
    assert [name for name in scores if "lipschitz.value" not in scores[name]] == ["mine", "inverse"]
    frame = scored(model, images, "grad-cam", mine, metrics="lipschitz,drop")
    scores = frame.attrs["summary"]["scores"]
    assert [name for name in scores if "lipschitz.value" not in scores[name]] == ["mine"]


@pytest.mark.fault("S32")
@pytest.mark.parametrize(
    ("others", "metrics", "told"),
    [
        ((), "lipschitz,drop", "lipschitz explains again, and mine has maps of the images alone"),
        (("untrained",), "drop", "untrained explains again, and mine"),
    ],
)
def test_what_maps_alone_cannot_give_is_refused_where_it_is_asked_for(
    model: nn.Module, images: Tensor, maps: Tensor, others: tuple[str, ...], metrics: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        scored(model, images, PrecomputedMaps("mine", maps), *others, metrics=metrics)


def test_a_metric_needs_an_explainer_if_it_explains_again() -> None:
    """Every metric is given maps that cannot be made again: those that ask for them, and no others, say so."""
    scene = scenes.scene_of(scenes.small_model(), scenes.images(3))
    asked = []

    def again(versions: Tensor, _number: int, **_: Any) -> Tensor:
        asked.append(len(versions))
        return torch.rand(len(versions), 1, 4, 4)

    for name, metric in METRICS.items():
        if name.startswith("quantus:"):
            continue
        asked.clear()
        settings = metric.settings()
        metric.score(Explained(scene, torch.rand(3, 1, 4, 4), again), settings, metric.prepare(scene, settings))
        assert bool(asked) == ("explainer" in metric.needs), name


# ---- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("maps") / "run")[0]


def made_for(run: Path) -> Tensor:
    """Maps of all images of the split, in its order."""
    split = open_dataset("digits").split("test")
    return torch.rand(len(split), 4, 4, generator=torch.Generator().manual_seed(0))


COMMAND = ("--metrics", "complexity,lipschitz", "--limit", "6", "--batch-size", "8")


def test_a_file_is_a_row_on_the_terminal_in_the_scores_and_on_the_page_and_is_not_opened_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, made_for(run).numpy())
    command = ("score", str(run), *COMMAND, "--maps", f"mine={path}", "--out", str(tmp_path / "out"))
    code, shown, _ = here(capsys, *command)
    assert code == 0
    head = next(line for line in shown.splitlines() if "grad-cam" in line and "random" in line)
    assert head.split()[:3] == ["grad-cam", "mine", "random"]
    line = next(line for line in shown.splitlines() if line.startswith("lipschitz.value"))
    assert line.split()[3] == "—"
    told = "mine: maps made elsewhere, 4×4, taken as maps of the predicted class"
    assert shown.count(told) == 1
    assert (tmp_path / "out" / "scores.json").read_text().count(told) == 1
    code, _, said = here(capsys, *command)
    assert (code, "nothing to do" in said) == (0, True)
    path.unlink()
    code, _, _ = here(
        capsys, "compare", str(tmp_path / "out"), "--rows", "explainers", "--out", str(tmp_path / "report")
    )
    assert code == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert told in page
    assert re.search(r"<th[^>]*>\s*mine", page)
    code, _, said = here(capsys, "score", str(run), *COMMAND, "--explainers", "mine", "--out", str(tmp_path / "out"))
    assert (code, "unknown explainer 'mine'" in said) == (2, True)


def test_the_place_of_a_file_is_that_of_its_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named first it is the controls' reference, and its maps are those of the gallery."""
    path = tmp_path / "mine.npy"
    np.save(path, made_for(run).numpy())
    command = ("score", str(run), *COMMAND, "--maps", f"mine={path}", "--out", str(tmp_path / "out"))
    code, shown, _ = here(capsys, *command, "--explainers", "mine,grad-cam,inverse")
    assert code == 0
    line = next(line for line in shown.splitlines() if line.startswith("lipschitz.value"))
    assert [line.split()[i] == "—" for i in (2, 3, 4)] == [True, False, True]
    from xeval.scoring.gallery import read_pictures

    pool = read_pictures(tmp_path / "out")
    assert pool is not None
    ids = list(open_dataset("digits").split("test").ids)
    wanted = made_for(run)[[ids.index(name) for name in pool.ids]].numpy()
    np.testing.assert_array_equal(pool.maps[:, 0], wanted)
    path.unlink()
    for rows in ("methods", "explainers"):
        report = tmp_path / f"report-{rows}"
        code, _, _ = here(capsys, "compare", str(tmp_path / "out"), "--rows", rows, "--out", str(report))
        assert code == 0
        assert "mine: maps made elsewhere" in (report / "methods.tex").read_text()


def test_checkpoints_with_maps_of_their_own_can_be_compared(tmp_path: Path) -> None:
    """The maps of two checkpoints differ as they must; the units of their values must not."""
    for seed in (0, 1):
        run, _ = make_run(tmp_path / f"r{seed}", seed=seed)
        mine = PrecomputedMaps("mine", made_for(run) + seed)
        xeval.score(run, explainers=["grad-cam", mine], metrics="complexity", limit=6, batch_size=8)
    found = xeval.compare([tmp_path / "r0", tmp_path / "r1"], rows="explainers")
    assert found is not None
    mine = PrecomputedMaps("mine", made_for(run), units="gradient")
    xeval.score(run, explainers=["grad-cam", mine], metrics="complexity", limit=6, batch_size=8)
    with pytest.raises(DataError, match="different definitions.*made elsewh"):
        xeval.compare([tmp_path / "r0", tmp_path / "r1"], rows="explainers")


# ---- faults


def array(path: Path, values: Any, **options: Any) -> Path:
    np.save(path, values, **options)
    return path


def tensors(path: Path, **held: Any) -> Path:
    ids = held.pop("ids", None)
    save_file({"maps": torch.rand(3, 4, 4), **held}, path, None if ids is None else {"ids": ids})
    return path


def of_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def cut(path: Path) -> Path:
    np.save(path, np.zeros((3, 4, 4), np.float32))
    return of_bytes(path, path.read_bytes()[:-8])


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch unpickled",)


THREE = json.dumps(["a", "b", "c"])
FAULTS: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "pickled.npy": (lambda p: array(p, np.array([Payload()]), allow_pickle=True), 3, "holds object, not numbers"),
    "text.npy": (lambda p: array(p, np.array(["a"])), 3, "not numbers"),
    "complex.npy": (lambda p: array(p, np.zeros((3, 4, 4), complex)), 3, "not numbers"),
    "flat.npy": (lambda p: array(p, np.zeros((3, 16))), 3, r"a tensor \(3, 16\) — give N×h×w or N×1×h×w"),
    "coloured.npy": (lambda p: array(p, np.zeros((3, 3, 4, 4))), 3, r"a tensor \(3, 3, 4, 4\)"),
    "empty.npy": (lambda p: array(p, np.zeros((0, 4, 4))), 3, r"a tensor \(0, 4, 4\)"),
    "few.npy": (lambda p: array(p, np.zeros((3, 4, 4))), 3, r"are 3 without ids, and the split has \d+ images"),
    "cut.npy": (cut, 3, r"is for \(3, 4, 4\) values of float32 and has 184 bytes"),
    "huge.npy": (lambda p: of_bytes(p, header("(4000000000, 1000, 1000)")), 3, "has 0 bytes of them"),
    "below.npy": (lambda p: of_bytes(p, header("(-3, -4, 4)") + bytes(192)), 3, "cannot be read as maps"),
    "header.npy": (
        lambda p: of_bytes(p, b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"),
        3,
        r"version 2 of numpy's format",
    ),
    "noise.npy": (lambda p: of_bytes(p, b"\x80\x04." * 40), 3, "cannot be read as maps"),
    "nothing.npy": (lambda p: of_bytes(p, b""), 3, "cannot be read as maps"),
    "pipe.npy": (fifo, 3, "is not a regular file"),
    "absent.npy": (lambda p: p, 2, "does not exist"),
    "maps.pt": (lambda p: of_bytes(p, b"PK"), 2, "neither a .npy nor a .safetensors file"),
    "header.safetensors": (lambda p: of_bytes(p, struct.pack("<Q", 1 << 40) + b"{"), 3, "cannot be read as maps"),
    "unnamed.safetensors": (
        lambda p: (save_file({"grad-cam": torch.rand(3, 4, 4)}, p), p)[1],
        3,
        "has no tensor maps, but grad-cam",
    ),
    "twice.safetensors": (lambda p: tensors(p, ids='["a", "b", "a"]'), 3, "2 maps of the image 'a'"),
    "count.safetensors": (lambda p: tensors(p, ids='["a", "b"]'), 3, "are 3 with 2 ids"),
    "json.safetensors": (lambda p: tensors(p, ids="[1, "), 3, "cannot be read as maps"),
    "kind.safetensors": (lambda p: tensors(p, ids="[1, 2, 3]"), 3, "ids that are no texts"),
    "lists.safetensors": (lambda p: tensors(p, ids='{"a": 1}'), 3, "are 3 with 1 ids"),
    "targets.safetensors": (
        lambda p: tensors(p, ids=THREE, targets=torch.zeros(2, dtype=torch.int64)),
        3,
        r"targets \(2,\) of torch.int64 for 3 maps",
    ),
    "classes.safetensors": (lambda p: tensors(p, ids=THREE, targets=torch.zeros(3)), 3, "of torch.float32 for 3 maps"),
    "others.safetensors": (lambda p: tensors(p, ids=THREE), 3, "lack 6 of 6 images, .* begin with a, b, c"),
}


@pytest.mark.fault("S31")
@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_no_set_of_maps_is_refused_before_any_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write, wanted, told = FAULTS[name]
    path = write(tmp_path / name)
    code, _, error = here(capsys, "score", str(run), *COMMAND, "--maps", f"mine={path}", "--out", str(tmp_path / "out"))
    last = error.strip().splitlines()[-1]
    assert code == wanted, last
    assert re.search(told, last)
    assert "mine" in last or name in last
    assert not (tmp_path / "out" / "scores.sqlite").exists()
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.fault("S32")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--maps", "mine"), "'mine' is not NAME=FILE"),
        (("--maps", "=a.npy"), "'=a.npy' is not NAME=FILE"),
        (("--maps", "a,b=a.npy"), "'a,b' is no name for a row"),
        (("--maps", "grad-cam=a.npy"), "the explainer 'grad-cam' exists already"),
        (("--maps", "random=a.npy"), "the control 'random' exists already"),
        (("--maps", "mine=a.npy", "--maps", "mine=a.npy"), "the explainer 'mine' exists already"),
        (("--maps", "mine=a.npy", "another"), "--maps are maps of one checkpoint"),
    ],
)
def test_names_of_rows_are_checked(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    array(tmp_path / "a.npy", made_for(run).numpy())
    code, _, error = here(capsys, "score", str(run), *given)
    assert (code, told in error) == (2, True), error


@pytest.mark.fault("S31")
def test_images_without_a_map_are_named(model: nn.Module, images: Tensor, maps: Tensor) -> None:
    """Where there are ids, each scored image needs one of them; without, there is a map for each image of the split."""
    with pytest.raises(DataError, match="'mine' lack 2 of 7 images, first 5, 6; theirs begin with 0, 1, 2"):
        scored(model, images, PrecomputedMaps("mine", maps[:5], ids=IDS[:5]))
    with pytest.raises(DataError, match="'mine' are 5 without ids, and the split has 7 images"):
        scored(model, images, PrecomputedMaps("mine", maps[:5]))


@pytest.mark.fault("S32")
def test_maps_with_nan_are_counted_and_the_others_kept(
    model: nn.Module, images: Tensor, maps: Tensor, tmp_path: Path
) -> None:
    broken = maps.double().clone()
    broken[3, 0, 1, 1] = torch.nan
    broken[4, 0, 1, 1] = 1e300  # infinite as float32
    with pytest.raises(DataError, match=r"of mine has no value for 2 of 7 images \(map not finite: 2\), first 3, 4"):
        scored(model, images, "grad-cam", PrecomputedMaps("mine", broken), metrics="complexity", out=tmp_path / "out")
    assert row(tmp_path / "out", "grad-cam")["complexity.gini"].notna().all()
    assert row(tmp_path / "out", "mine")["complexity.gini"].isna().sum() == 2


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({"maps": [[1.0]]}, DataError, "are list, not numbers"),
        ({"ids": IDS[:-1]}, DataError, "are 7 with 6 ids"),
        ({"ids": "0123456"}, DataError, "are 7 with 1 ids"),
        ({"ids": list(range(N))}, DataError, "ids that are no texts"),
        ({"targets": [0] * 6}, DataError, r"targets \(6,\)"),
        ({"targets": [0.5] * 7}, DataError, "of torch.float32"),
        ({"units": "metres"}, UsageError, "set gradient or location"),
    ],
)
def test_tensors_are_checked(maps: Tensor, given: dict[str, Any], kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        PrecomputedMaps("mine", **{"maps": maps, **given}).read()


def test_ids_are_said_once(tmp_path: Path) -> None:
    path = tensors(tmp_path / "a.safetensors", ids=THREE)
    with pytest.raises(UsageError, match="has ids of its own — leave out ids="):
        PrecomputedMaps("mine", path, ids=["a", "b", "c"]).read()


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8", "u1", "<i8", "?"])
def test_every_kind_of_number_is_read_in_either_order(tmp_path: Path, kind: str) -> None:
    values = (np.arange(24).reshape(2, 3, 4) % 2).astype(kind)
    for given in (values, np.asfortranarray(values)):
        held, _ = PrecomputedMaps("mine", array(tmp_path / "a.npy", given)).read()
        np.testing.assert_array_equal(held.maps[:, 0].numpy(), values.astype(np.float32))
