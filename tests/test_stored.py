"""What an earlier version of the package has stored is read, resumed and compared by this one.

``tests/stored`` was written before the modules moved into their rooms: two scored runs of a tiny network with the
``comparison.toml`` beside them, an exported file, training runs that stopped after their first epoch, every value of
the stores as it was read then (hexadecimal, so to the last bit), the ``results.json`` of their comparison, and the
hashes of all definitions. The scores in ``clxai-version-1`` are those of the first of the two networks under version 1
of ``clxai-2026``, whose definitions are here beside those of version 2.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import xeval
from tests.commands import ROOT, here
from xeval.checkpoints.card import read_card
from xeval.checkpoints.load import load_model
from xeval.errors import UsageError
from xeval.metrics import METRICS
from xeval.runtime.files import digest
from xeval.runtime.progress import Silent
from xeval.scoring.plan import _task
from xeval.scoring.protocols import PROTOCOLS, Protocol
from xeval.scoring.store import Store
from xeval.training.loop import train
from xeval.training.recipe import load_recipe

STORED = ROOT / "tests" / "stored"
NAMES = ("digits-ce-s0", "digits-supcon-s0")
OPTIONS = ("--limit", "16", "--metrics", "drop,insertion", "--explainers", "grad-cam,random")
FIRST = "clxai-version-1"
PUBLISHED = ("--limit", "16", "--protocol", "clxai-2026", "--metrics", "complexity,contrast")
PUBLISHED += ("--explainers", "grad-cam,eigen-cam,inverse")
HALF = ("arch=cnn-tiny", "epochs=2", "excon.explain_from_epoch=1")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(STORED, tmp_path / "stored")


def rows(folder: Path) -> dict[tuple[str, ...], list[float]]:
    """Every value of a store by its cell."""
    with Store(folder / "scores.sqlite", read_only=True) as store:
        return {
            (cell.checkpoint, cell.data, cell.explainer, cell.metric, cell.name, cell.definition): [
                float(value) for value in store.read(number).values.reshape(-1)
            ]
            for number, cell in store.cells()
        }


def expected(name: str) -> dict[tuple[str, ...], list[float]]:
    """The same as the earlier version read it."""
    content = json.loads((STORED / "rows" / f"{name}.json").read_text())
    return {tuple(row["cell"]): [float.fromhex(value) for value in row["values"]] for row in content}


def same_bits(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_row_is_read_to_the_last_bit(name: str) -> None:
    found, wanted = rows(STORED / "runs" / name), expected(name)
    assert found.keys() == wanted.keys()
    assert all(same_bits(found[cell], wanted[cell]) for cell in wanted)


def test_the_same_command_finds_nothing_to_do(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stored / "runs" / NAMES[0]
    before = (run / "scores.sqlite").read_bytes(), (run / "scores.json").read_bytes()
    left, shown, last = here(capsys, "score", str(run), *OPTIONS)
    assert left == 0
    assert "drop.mag@0.45" in shown
    assert "nothing to do" in last
    assert ((run / "scores.sqlite").read_bytes(), (run / "scores.json").read_bytes()) == before


def test_more_is_scored_beside_what_is_there(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stored / "runs" / NAMES[0]
    more = (*OPTIONS[:3], "drop,insertion,complexity", *OPTIONS[4:])
    assert here(capsys, "score", str(run), *more)[0] == 0
    found, wanted = rows(run), expected(NAMES[0])
    assert all(same_bits(found[cell], wanted[cell]) for cell in wanted)
    assert {cell[3] for cell in found.keys() - wanted.keys()} == {"complexity"}


def test_what_is_missing_is_scored_under_the_same_definitions(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new store of the same weights has the same cells; another processor may round its values otherwise."""
    run = stored / "runs" / NAMES[1]
    (run / "scores.sqlite").unlink()
    assert here(capsys, "score", str(run), *OPTIONS)[0] == 0
    found, wanted = rows(run), expected(NAMES[1])
    assert found.keys() == wanted.keys()
    for cell, values in wanted.items():
        assert found[cell] == pytest.approx(values, abs=1e-4, nan_ok=True), cell


def test_new_files_have_the_formats_of_the_stored_ones(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Schemas and keys of every file that a run and its scores leave, and the columns of the store."""
    recipe = load_recipe("digits", "ce", ["arch=cnn-tiny", "epochs=2"])
    run = train(recipe, seed=0, out=stored / "new", limit=40, progress=Silent())
    assert here(capsys, "score", str(run), *OPTIONS)[0] == 0
    old = STORED / "runs" / NAMES[0]
    assert {path.name for path in run.iterdir()} == {path.name for path in old.iterdir()}
    for name in ("run.json", "scores.json", "artifacts.json", "gallery.json"):
        now, then = (json.loads((folder / name).read_text()) for folder in (run, old))
        assert now["schema"] == then["schema"], name
        assert shape(now) == added(shape(then), name), name
    later = [(name, sql) for name, sql in tables(run / "scores.sqlite") if name == "tuned"]
    assert tables(run / "scores.sqlite") == [*tables(old / "scores.sqlite"), *later]
    for name in ("artifacts.safetensors", "gallery.safetensors", "best.safetensors"):
        now, then = (load_file(folder / name) for folder in (run, old))
        assert {key: value.dtype for key, value in now.items()} == {key: value.dtype for key, value in then.items()}


def added(keys: Any, name: str) -> Any:
    """The keys of an earlier file with those that have joined them since, none of which is needed to read one."""
    if name != "run.json":
        return keys
    recipe = keys["recipe"]
    head = {**recipe["head"], "optimizer": {**recipe["head"]["optimizer"], "cosine_from": None}}
    tables = {
        "optimizer": {**recipe["optimizer"], "cosine_from": None},
        "head": head,
        "loss": {**recipe["loss"], "miner": None},
        "excon": {**recipe["excon"], "supcon_share": None, "allow_unexplained": None},
        "init": None,
        "normalization": None,
        "precision": None,
    }
    dataset = {**keys["dataset"], "interpolation": None}
    return {**keys, "explained_from": None, "dataset": dataset, "recipe": {**recipe, **tables}}


def shape(content: Any) -> Any:
    """The keys of nested objects; of lists and values nothing."""
    return {key: shape(value) for key, value in content.items()} if isinstance(content, dict) else None


def tables(path: Path) -> list[tuple[str, str]]:
    database = sqlite3.connect(path)
    version = database.execute("PRAGMA user_version").fetchone()[0]
    found = database.execute("SELECT name, sql FROM sqlite_master ORDER BY name")
    return [("version", version), *((name, " ".join((sql or "").split())) for name, sql in found)]


@pytest.mark.parametrize("name", json.loads((STORED / "definitions.json").read_text()))
def test_definitions_hash_as_they_did(name: str) -> None:
    """The hash of a protocol and of every metric's default definition stands in every stored row."""
    wanted = json.loads((STORED / "definitions.json").read_text())[name]
    protocol = version(name)
    assert protocol.hash() == wanted["hash"]
    assert {metric: digest(protocol.metric_definition(metric)) for metric in protocol.metrics} == wanted["metrics"]


def version(name: str) -> Protocol:
    """The protocol; version 1 of those of 2026 is what they are with the four switches off that made version 2."""
    name, _, first = name.partition(", version ")
    now = PROTOCOLS[name]
    if not first:
        return now
    settings = {metric: chosen for metric, chosen in now.settings.items() if metric != "contrast"}
    return now.model_copy(update={"map": "relu-minmax", "svd": "torch", "inverse": "negated", "settings": settings})


def test_rows_of_an_earlier_version_of_a_protocol_stay_beside_those_of_this_one(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read to the last bit, never mixed with new rows, and tell which definitions they are of."""
    run = stored / "runs" / NAMES[0]
    for name in ("scores.sqlite", "scores.json"):
        shutil.copy(stored / FIRST / name, run / name)
    wanted = expected(FIRST)
    then = version("clxai-2026, version 1")
    tasks = [
        _task(then, METRICS[name], then.metric_settings(name), "backbone.stage") for name in ("complexity", "contrast")
    ]
    assert {cell[5] for cell in wanted if cell[3] != "model"} == {task.definition for task in tasks}
    before = xeval.results(run)
    assert same_bits(
        list(before[before["explainer"] == "grad-cam"]["complexity.entropy"]),
        next(
            values for cell, values in wanted.items() if cell[2:5] == ("grad-cam", "complexity", "complexity.entropy")
        ),
    )
    assert here(capsys, "score", str(run), *PUBLISHED)[0] == 0
    found = rows(run)
    assert all(same_bits(found[cell], wanted[cell]) for cell in wanted)
    fresh = found.keys() - wanted.keys()
    assert {cell[:5] for cell in fresh} == {cell[:5] for cell in wanted if cell[3] != "model"}
    assert {cell[5] for cell in fresh}.isdisjoint({cell[5] for cell in wanted})
    inverse = [cell for cell in fresh if cell[2:5] == ("inverse", "complexity", "complexity.entropy")]
    assert all(math.isfinite(value) for value in found[inverse[0]])
    assert json.loads((run / "scores.json").read_text())["protocol"]["version"] == 2
    assert json.loads((stored / FIRST / "scores.json").read_text())["protocol"]["version"] == 1


def test_versions_of_a_protocol_are_not_compared(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (stored / "runs" / name for name in NAMES)
    for name in ("scores.sqlite", "scores.json"):
        shutil.copy(stored / FIRST / name, first / name)
    assert here(capsys, "score", str(second), *PUBLISHED)[0] == 0
    left, _, last = here(capsys, "compare", str(stored / "runs"))
    assert left == 3
    assert "different definitions" in last


def test_stored_weights_have_the_hash_that_the_scores_name(stored: Path) -> None:
    (checkpoint,) = {cell[0] for cell in expected(NAMES[0])}
    assert load_model(stored / "runs" / NAMES[0]).sha256 == checkpoint
    assert load_model(stored / "ce.pt").sha256 == checkpoint
    assert read_card(stored / "runs" / NAMES[0]).method == "ce"


def test_stored_runs_are_compared_as_they_were(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The declaration holds, every number of the comparison is that of then, and what was not tested is not claimed."""
    assert here(capsys, "compare", str(stored / "runs"))[0] == 0
    (now,) = json.loads((stored / "runs" / "report" / "results.json").read_text())["sections"]
    (then,) = json.loads((STORED / "results.json").read_text())["sections"]
    assert now["declaration"] == then["declaration"]
    assert now["reference"] == "supcon"
    assert now["protocol"]["hash"] == then["protocol"]["hash"]
    assert_close(now["methods"], then["methods"])
    assert_close(now["contrasts"], [as_told_now(one, then["methods"]) for one in then["contrasts"]])
    told = "has the best mean on"  # one seed and 16 images have no best method, only a best mean
    assert now["verdict"] == then["verdict"].replace("is best on", told)
    assert told in now["verdict"]
    frame = xeval.results(stored / "runs" / NAMES[0])
    wanted = {cell[2:5:2]: values for cell, values in expected(NAMES[0]).items()}
    cam = frame[frame["explainer"] == "grad-cam"]
    assert same_bits(list(cam["drop.mag@0.45"]), wanted["grad-cam", "drop.mag@0.45"])


def as_told_now(then: dict[str, Any], methods: dict[str, Any]) -> dict[str, Any]:
    """A stored contrast without what one seed does not show, and with the images that it has always been over.

    One seed a row makes no pairs of seeds and no share of the variance between seeds, so both are gone; everything
    else is as it was. Means over images (``n``) now say that 16 are below the floor of a test, and what the means over
    the common images are: those of the tables, since every stored value is defined.
    """
    assert then["seeds"] == [1, 1]
    now: dict[str, Any] = {**then, "a12": None, "share_of_seeds": None, "too_few": ""}
    now |= {"n_of_rows": None, "row_mean": None, "reference_mean": None}
    if then["n"] is None:
        return now
    key = then["column"]
    row, reference = (
        ({**methods[name]["model"], **methods[name]["explainers"]["grad-cam"]})[key]["mean"]
        for name in (then["row"], then["reference"])
    )
    return {**now, "too_few": "16 images < 30", "n_of_rows": 16, "row_mean": row, "reference_mean": reference}


def assert_close(now: Any, then: Any) -> None:
    """Equal in structure and text, and in numbers as far as they are printed."""
    if isinstance(then, dict):
        assert now.keys() == then.keys()
        for key in then:
            assert_close(now[key], then[key])
    elif isinstance(then, list):
        assert len(now) == len(then)
        for one, other in zip(now, then, strict=True):
            assert_close(one, other)
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-6, abs=1e-9)
    else:
        assert now == then


@pytest.mark.parametrize("method", ["supcon", "triplet"])
def test_a_training_run_that_stopped_goes_on_and_ends(method: str, stored: Path) -> None:
    begun = history(stored / "half" / f"digits-{method}-s0")
    assert [row["epoch"] for row in begun] == ["1"]
    recipe = load_recipe("digits", method, HALF)
    run = train(recipe, seed=0, out=stored / "half", limit=40, progress=Silent())
    ended = history(run)
    assert ended[:1] == begun
    assert [row["epoch"] for row in ended][:2] == ["1", "2"]
    assert read_card(run).seed == 0
    assert not (run / "state").exists()


def test_a_training_run_that_stopped_is_not_continued_with_other_settings(stored: Path) -> None:
    other = load_recipe("digits", "supcon", [*HALF, "loss.temperature=0.3"])
    with pytest.raises(UsageError, match="loss.temperature was 0.1, now 0.3"):
        train(other, seed=0, out=stored / "half", limit=40, progress=Silent())


def test_a_run_that_explains_is_not_continued_since_epochs_count_otherwise(stored: Path) -> None:
    """Its key meant "explain after epoch 1"; the same words mean "from epoch 1 on" now."""
    same = load_recipe("digits", "excon", [*HALF, "excon.background_copies=1", "excon.supcon_share=0"])
    with pytest.raises(UsageError, match="settings: explained_from was None, now 1 — use"):
        train(same, seed=0, out=stored / "half", limit=40, progress=Silent())


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))
