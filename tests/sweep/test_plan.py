"""From recipes and matrices to runs."""

from collections import Counter
from pathlib import Path

import pytest

from tests.commands import here
from xeval.errors import UsageError
from xeval.sweep.matrix import find_matrix, matrix_names
from xeval.sweep.plan import Wish, make_plan
from xeval.training.recipe import load_recipe

TWO = """
description = "two settings"
seeds = "0-1"
limit = 100
[score]
metrics = ["drop"]
[slurm]
time = "02:00:00"
[[parts]]
folder = "a"
recipes = ["mine.toml"]
methods = ["ce", "supcon"]
[[parts]]
folder = "b"
recipes = ["digits"]
set = ["epochs=3"]
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text('extends = "digits"\ndescription = "mine"\nepochs = 2\n')
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return path


# ---- plain recipes


def test_a_recipe_with_methods_and_seeds():
    plan = make_plan(Wish("digits", seeds="0-2", methods=("ce", "supcon-ori"), limit=50))
    names = [f"digits-{method}-s{seed}" for method in ("ce", "supcon-ori") for seed in (0, 1, 2)]
    assert [run.path for run in plan.runs] == names
    assert not plan.tuning
    assert plan.folders == ("",)
    assert {run.limit for run in plan.runs} == {50}
    assert {run.method: run.choices[0].epochs for run in plan.runs} == {
        "ce": 15,
        "supcon-ori": 30,
    }
    assert plan.runs[0].choices[0].recipe == load_recipe("digits", "ce").model_dump(mode="json")


def test_without_methods_the_recipe_decides_and_six_seeds_are_the_default():
    assert [run.path for run in make_plan(Wish("digits")).runs] == [f"digits-excon-s{seed}" for seed in range(6)]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("digitz"), "unknown recipe 'digitz'.*did you mean 'digits'"),
        (Wish("digits", methods=("supkon",)), "unknown method 'supkon'"),
        (Wish("digits", overrides=("epoch=3",)), "'epoch' is unknown — did you mean 'epochs'"),
        (Wish("digits", overrides=("epochs=1,0",)), "'epochs' is 0"),
        (Wish("digits", seeds="x"), "the seeds 'x'"),
        (Wish("digits", methods=("ce", "ce")), "two runs of the sweep would both be digits-ce-s0"),
        (Wish("excon", methods=("ce",)), "no part of excon trains ce"),
    ],
)
def test_mistakes_are_found_before_anything_starts(wish, message):
    with pytest.raises(UsageError, match=message):
        make_plan(wish)


# ---- tuning


def test_every_value_is_trained_with_held_out_images_and_the_choice_on_all_of_train():
    wish = Wish("digits", seeds="0-1", methods=("supcon", "excon"), overrides=("explain_from_epoch=0,5",))
    plan = make_plan(wish)
    assert Counter(run.method for run in plan.tuning) == {"excon": 4}  # the key does not concern supcon
    for run in plan.tuning:
        assert run.path.startswith(".sweep/tuning/")
        assert run.score is None
        assert (run.choices[0].recipe["heldout"], run.choices[0].recipe["select_on"]) == (0.2, "last")
    assert len(plan.runs) == 4
    for run in plan.runs:
        assert [choice.recipe["heldout"] for choice in run.choices] == [0] * len(run.choices)
        assert {choice.recipe["select_on"] for choice in run.choices} == {"last"}
    tuned = next(run for run in plan.runs if run.method == "excon")
    assert [choice.recipe["excon"]["explain_from_epoch"] for choice in tuned.choices] == [0, 5]
    paths = {run.path: run.choices[0].recipe["excon"]["explain_from_epoch"] for run in plan.tuning}
    for choice in tuned.choices:  # each choice is judged by its own runs, of all seeds
        assert len(choice.tuned_by) == 2
        assert {paths[path] for path in choice.tuned_by} == {choice.recipe["excon"]["explain_from_epoch"]}
    assert all(not choice.tuned_by for run in plan.runs if run.method == "supcon" for choice in run.choices)


def test_tuning_never_looks_at_the_test_split():
    """Not even for the recipes that select on it, as published."""
    wish = Wish("excon-cifar100-b128-published", seeds="0", overrides=("explain_from_epoch=0,50,100",))
    plan = make_plan(wish)
    assert len(plan.tuning) == 3
    assert {choice.recipe["select_on"] for run in plan.every for choice in run.choices} == {"last"}
    assert {run.choices[0].recipe["heldout"] for run in plan.tuning} == {0.2}


def test_an_array_is_one_value():
    plan = make_plan(Wish("digits", seeds="0", overrides=("views.crop=[0.2,1.0]",)))
    assert not plan.tuning
    assert plan.runs[0].choices[0].recipe["views"]["crop"] == [0.2, 1.0]


# ---- matrices


def test_a_matrix_file(two):
    plan = make_plan(Wish(str(two)))
    assert [run.path for run in plan.runs] == [
        *(f"a/digits-{method}-mine-s{seed}" for method in ("ce", "supcon") for seed in (0, 1)),
        *(f"b/digits-excon-s{seed}" for seed in (0, 1)),
    ]
    assert plan.folders == ("a", "b")
    assert {run.path[0]: run.choices[0].recipe["epochs"] for run in plan.runs} == {"a": 2, "b": 3}
    assert all((run.limit, run.score) == (100, {"metrics": ["drop"]}) for run in plan.runs)
    assert plan.slurm == {"time": "02:00:00"}


def test_the_command_line_comes_before_the_matrix(two):
    plan = make_plan(Wish(str(two), seeds="7", methods=("ce", "excon"), limit=20, overrides=("epochs=9",)))
    assert [run.path for run in plan.runs] == ["a/digits-ce-mine-epochs9-s7", "b/digits-excon-epochs9-s7"]
    assert {run.limit for run in plan.runs} == {20}
    assert {run.choices[0].recipe["epochs"] for run in plan.runs} == {9}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('folder = "b"', 'folder = "a"', "two parts in the folder 'a'"),
        ('folder = "b"', 'folder = "../b"', "'parts.1.folder'"),
        ('folder = "b"', 'folder = ".sweep"', "'parts.1.folder'"),
        ('seeds = "0-1"', "seed = 3", "'seed'"),
        ('metrics = ["drop"]', 'metric = ["drop"]', "--metric:"),
        ('metrics = ["drop"]', 'metrics = ["drpo"]', "unknown metric 'drpo' — did you mean 'drop'"),
        ('metrics = ["drop"]', 'explainers = ["lime", "grad"]', "unknown explainer 'grad'"),
        ('metrics = ["drop"]', "thresholds = [15]", "did you mean 0.15"),
        ('metrics = ["drop"]', 'out = "/tmp"', r"\[score\] cannot set out"),
        ('recipes = ["digits"]', "recipes = []", "'parts.1.recipes'"),
        ('recipes = ["digits"]', 'recipes = ["nothing"]', "unknown recipe 'nothing'"),
    ],
)
def test_wrong_matrices_are_refused_by_the_key(two, old, new, message):
    assert old in TWO
    two.write_text(TWO.replace(old, new))
    with pytest.raises(UsageError, match=message):
        make_plan(Wish(str(two)))


def test_the_papers_matrices():
    plan = make_plan(Wish("excon"))
    assert Counter(run.folder for run in plan.runs) == dict.fromkeys(
        ("cifar100-b128", "cifar100-b256", "tiny-imagenet"), 20
    )
    assert len(make_plan(Wish("excon", seeds="0-5")).runs) == 72
    for run in plan.runs:
        recipe = run.choices[0].recipe
        assert (recipe["arch"], recipe["epochs"]) == ("resnet50-cifar", 200)
        assert (recipe["dataset"], recipe["batch_size"]) == {
            "cifar100-b128": ("cifar100", 128),
            "cifar100-b256": ("cifar100", 256),
            "tiny-imagenet": ("tiny-imagenet", 128),
        }[run.folder]
    starts = {(run.folder, run.method): run.choices[0].recipe["excon"]["explain_from_epoch"] for run in plan.runs}
    assert starts["cifar100-b128", "excon"] == 0
    assert starts["cifar100-b256", "excon"] == 100
    assert starts["cifar100-b128", "exconb"] == starts["cifar100-b256", "exconb"] == 50
    study = make_plan(Wish("clxai"))
    assert Counter(run.method for run in study.runs) == {"ce": 5, "supcon-ori": 5, "triplet": 5}
    assert {run.choices[0].recipe["name"] for run in study.runs} == {"clxai-cifar10"}  # one comparison


def test_matrices_are_listed_and_no_recipe_has_their_names(capsys):
    from xeval.training.recipe import recipe_names

    code, out, _ = here(capsys, "list", "matrices")
    assert code == 0
    assert matrix_names()
    for name in matrix_names():
        matrix = find_matrix(name)
        assert matrix is not None
        assert f"{name} " in out
        assert matrix[1].description in out
    assert not set(matrix_names()) & set(recipe_names())
