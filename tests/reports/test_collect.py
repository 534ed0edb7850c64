from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import scores, write_run, write_study
from xeval.errors import DataError
from xeval.reports.captions import place
from xeval.reports.collect import collect


def test_groups_by_data_set_and_recipe_then_method_then_seed(runs: Path) -> None:
    write_study(runs / "a", artifacts=False)
    write_study(runs / "b", {"ce": (0.4,), "supcon": (0.5,)}, artifacts=False, dataset="shapes", recipe="long")
    found = collect(runs)
    assert [(g.dataset, g.recipe) for g in found.groups] == [("digits", "digits"), ("shapes", "long")]
    assert list(found.groups[0].methods) == ["supcon", "excon", "exconb"]
    assert [run.seed for run in found.groups[0].methods["excon"]] == [0, 1, 2]


def test_known_methods_come_in_the_order_of_the_papers_and_others_by_name(runs: Path) -> None:
    for method in ("zeta", "exconb", "alpha", "ce"):
        write_run(runs, scores(method, 0, 0.3))
    assert list(collect(runs).groups[0].methods) == ["ce", "exconb", "alpha", "zeta"]


def test_foreign_weight_files_are_methods_of_their_own(runs: Path) -> None:
    for name in ("first", "second"):
        found = scores("ckpt", None, 0.3)
        found["checkpoint"] |= {"name": name, "method": name, "sha256": name, "recipe": None}
        write_run(runs, found, folder=f"{name}.xeval")
    assert list(collect(runs).groups[0].methods) == ["first", "second"]


def test_a_run_directory_itself_can_be_compared(runs: Path) -> None:
    assert len(collect(write_run(runs, scores("ce", 0, 0.3))).runs) == 1


def test_history_keeps_empty_fields_as_unknown(runs: Path) -> None:
    run = write_run(runs, scores("ce", 0, 0.3), (0.5, 0.75))
    history = collect(run).runs[0].history
    assert history["val_accuracy"] == (0.5, 0.75)
    assert history["masked_share"] == (None, None)


def test_says_why_a_run_takes_no_part(runs: Path) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    (write_run(runs, scores("ce", 1, 0.3)) / "scores.json").unlink()
    unfinished = write_run(runs, scores("ce", 2, 0.3))
    (unfinished / "scores.json").unlink()
    (unfinished / "run.json").unlink()
    write_run(runs, scores("ce", 3, 0.3) | {"status": "partial"})
    reasons = {item.path: item.reason for item in collect(runs).excluded}
    assert reasons == {
        "digits-ce-s1": "trained, not scored",
        "digits-ce-s2": "training has not finished",
        "digits-ce-s3": "scoring is partial",
    }


@pytest.mark.fault("P11")
def test_an_empty_folder_is_refused(runs: Path) -> None:
    with pytest.raises(DataError, match="no run was found"):
        collect(runs)


@pytest.mark.fault("P11")
def test_nothing_scored_lists_what_was_found(runs: Path) -> None:
    (write_run(runs, scores("ce", 1, 0.3)) / "scores.json").unlink()
    with pytest.raises(DataError, match=r"digits-ce-s1: trained, not scored") as caught:
        collect(runs)
    assert caught.value.exit_code == 3
    assert caught.value.remedy == f"xeval score {runs.name}/digits-ce-s1"


def test_what_to_type_for_a_run_is_its_path_from_here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (write_run(runs, scores("ce", 1, 0.3)) / "scores.json").unlink()
    monkeypatch.chdir(runs.parent)
    for root in (Path(runs.name), Path(runs.name) / "digits-ce-s1"):
        with pytest.raises(DataError) as caught:
            collect(root)
        assert caught.value.remedy == f"xeval score {runs.name}/digits-ce-s1"


def test_runs_of_one_recipe_with_other_settings_are_told_apart_in_words(runs: Path) -> None:
    for number, epochs in enumerate((8, 30)):
        content = scores("ce", 0, 0.3 + number)
        content["checkpoint"]["sha256"] = f"{number}" * 64
        folder = write_run(runs, content, folder=f"ce-{epochs}")
        card = json.loads((folder / "run.json").read_text())
        card["recipe"] = {**card["recipe"], "epochs": epochs}
        (folder / "run.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match="ce-30 and ce-8 are both ce, seed 0, with epochs 30 and 8"):
        collect(runs)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        collect(tmp_path / "nowhere")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["dataset"].update(n=100), r"different numbers of images \(360 images: 1 .*; 100 images: 1"),
        (lambda s: s["dataset"].update(manifest="f" * 64), "scored on different images .*ffffffffffff, all: 1"),
        (lambda s: s["dataset"].update(split="train"), "scored on different images"),
        (
            lambda s: s["dataset"].update(selection="stratified, seed 1"),
            "scored on different images .*stratified, seed 1: 1",
        ),
        (lambda s: s["dataset"].update(key="d" * 64), "scored on different images"),
        (lambda s: s["protocol"].update(hash="e" * 64), "different definitions .*eeeeeeeeeeee: 1"),
        (
            lambda s: s["checkpoint"].update(sha256=scores("ce", 0, 0.3)["checkpoint"]["sha256"]),
            "are the same checkpoint",
        ),
        (lambda s: s["checkpoint"].update(seed=0), "are both ce, seed 0"),
    ],
)
@pytest.mark.fault("P2", "P3")
def test_unlike_runs_are_refused(runs: Path, change: Change, message: str) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    other = scores("ce", 1, 0.3)
    change(other)
    write_run(runs, other, folder="other")
    with pytest.raises(DataError, match=message):
        collect(runs)


def test_data_sets_may_differ_from_each_other(runs: Path) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    other = scores("ce", 0, 0.3, dataset="shapes")
    other["dataset"]["n"] = 50
    write_run(runs, other)
    assert len(collect(runs).groups) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: text.replace('"accuracy": 0.98', '"accuracy": NaN'),
        lambda text: text.replace('"accuracy": 0.98', '"accuracy": "high"'),
        lambda text: "[]",
        lambda text: "[" * 100_000,
    ],
)
@pytest.mark.fault("P8")
def test_a_damaged_score_file_is_an_error_that_names_it(runs: Path, damage: Callable[[str], str]) -> None:
    path = write_run(runs, scores("ce", 0, 0.3)) / "scores.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=r"digits-ce-s0/scores\.json cannot be read"):
        collect(runs)


def test_a_damaged_history_is_an_error_that_names_it(runs: Path) -> None:
    (write_run(runs, scores("ce", 0, 0.3)) / "history.csv").write_text("epoch,val_loss\n1,many\n")
    with pytest.raises(DataError, match=r"history\.csv cannot be read"):
        collect(runs)


@pytest.mark.fault("P8")
def test_unknown_keys_of_newer_writers_are_ignored(runs: Path) -> None:
    found = scores("ce", 0, 0.3) | {"future": 1}
    found["checkpoint"]["future"] = 2
    assert collect(write_run(runs, found)).runs[0].method == "ce"


def test_state_folders_and_hidden_folders_are_not_entered(runs: Path) -> None:
    run = write_run(runs, scores("ce", 0, 0.3))
    for hidden in ("state", ".report-tmp"):
        (run / hidden).mkdir()
        (run / hidden / "scores.json").write_text(json.dumps(scores("ce", 1, 0.3)))
    assert len(collect(runs).runs) == 1


@pytest.mark.fault("R4")
def test_messages_are_safe_to_print(runs: Path) -> None:
    for seed, selection in enumerate(("all", "\x1b]0;owned\x07some")):
        found = scores("ce", seed, 0.3)
        found["dataset"] |= {"name": "\x1b[2Jdigits", "selection": selection}
        write_run(runs, found, folder=f"run{seed}")
    with pytest.raises(DataError, match="the runs on digits were scored on different images") as caught:
        collect(runs)
    assert "\x1b" not in str(caught.value)


def test_architectures_are_told_apart_and_named_only_where_they_have_to_be(runs: Path) -> None:
    for arch, drop in (("resnet18", 0.3), ("vit", 0.2)):
        for method in ("ce", "supcon"):
            for seed in (0, 1):
                found = scores(method, seed, drop)
                found["checkpoint"] |= {"arch": arch, "sha256": f"{arch}-{method}-{seed}"}
                write_run(runs, found, folder=f"{arch}-{method}-{seed}")
    write_run(runs, scores("ce", 0, 0.3, dataset="shapes", recipe="shapes"))
    found = collect(runs).groups
    assert [(group.names, list(group.methods)) for group in found] == [
        (("digits", "resnet18"), ["ce", "supcon"]),
        (("digits", "vit"), ["ce", "supcon"]),
        (("shapes",), ["ce"]),
    ]
    assert [len(group.runs) for group in found] == [4, 4, 1]
    assert place(found[1]) == "digits (test, 360 images, vit)"
    assert place(found[2]) == "shapes (test, 360 images)"
