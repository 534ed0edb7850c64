"""Recipes: what is refused and how it is said, how files combine, and that every packaged recipe works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xeval.data import DatasetInfo
from xeval.errors import UsageError
from xeval.models import find_layer
from xeval.models.layers import excon_layer
from xeval.models.sources import network
from xeval.training.learner import fresh_learner, model_spec
from xeval.training.methods import METHODS
from xeval.training.recipe import json_schema, load_recipe, recipe_hash, recipe_names, result_settings

CLASSES = {"digits": 10, "photo10": 10, "shapes": 5, "tiny-imagenet": 200, "cifar10": 10, "cifar100": 100}
MINIMAL = 'method = "supcon"\ndataset = "digits"\narch = "cnn-tiny"\nepochs = 2\nbatch_size = 8\n'


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_validates_and_builds_its_model(name: str) -> None:
    recipe = load_recipe(name)
    channels = 1 if recipe.dataset == "digits" else 3
    classes = tuple(str(number) for number in range(CLASSES[recipe.dataset]))
    info = DatasetInfo(recipe.dataset, classes, (0.5,) * channels, (0.2,) * channels, channels, recipe.image_size or 32)
    with torch.device("meta"):
        model = network(model_spec(recipe, info))
        logits = model(torch.zeros(2, channels, info.size, info.size))
    assert logits.shape == (2, len(classes))


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_of_the_excon_paper_trains_on_the_layer_that_its_protocol_scores(name: str) -> None:
    recipe = load_recipe(name)
    channels, size = (1 if recipe.dataset == "digits" else 3), recipe.image_size or 32
    classes = tuple(str(number) for number in range(CLASSES[recipe.dataset]))
    info = DatasetInfo(recipe.dataset, classes, (0.5,) * channels, (0.2,) * channels, channels, size)
    with torch.device("meta"):
        learner = fresh_learner(recipe, info, 0)
    if not name.startswith("excon-"):
        assert learner.explained_layer == (recipe.excon.layer or learner.default_layer)
        find_layer(learner.model, learner.explained_layer)
        return
    assert learner.explained_layer == excon_layer(learner.model, size)
    assert learner.explained_layer == {32: "backbone.layer2.3.conv3", 64: "backbone.layer4.2.conv3"}[size]
    maps: list[torch.Tensor] = []
    find_layer(learner.model, learner.explained_layer).register_forward_hook(lambda _m, _i, out: maps.append(out))
    learner.model(torch.zeros(1, 3, size, size, device="meta"))
    assert maps[0].shape[-2:] == {32: (16, 16), 64: (8, 8)}[size]


@pytest.mark.parametrize("method", ["excon", "exconb"])
def test_small_recipes_begin_to_explain_after_a_share_of_their_epochs(method: str) -> None:
    starts = {
        epochs: load_recipe("photos", method, [f"epochs={epochs}"]).explained_from for epochs in (1, 2, 3, 6, 15, 100)
    }
    assert starts == {1: 1, 2: 1, 3: 2, 6: 2, 15: 4, 100: 21}  # 20 % of the epochs before, rounded
    almost = load_recipe("photos", method, ["epochs=3", "excon.supcon_share=0.99"])
    assert almost.explained_from == 3  # some epoch always explains
    assert load_recipe("photos", method, ["excon.explain_from_epoch=0"]).explained_from == 1


@pytest.mark.parametrize("method", ["excon", "exconb"])
def test_a_run_that_would_never_explain_is_refused(method: str) -> None:
    late = ["epochs=3", "excon.explain_from_epoch=4"]
    with pytest.raises(UsageError, match="would explain from epoch 4 on and trains for 3: a run of supcon"):
        load_recipe("photos", method, late)
    assert load_recipe("photos", method, [*late, "excon.allow_unexplained=true"]).explained_from == 4
    assert load_recipe("photos", "supcon", late).epochs == 3
    assert load_recipe("photos", method, ["epochs=4", late[1]]).explained_from == 4


@pytest.mark.parametrize("name", recipe_names())
def test_background_images_are_forwarded_twice_unless_asked_otherwise(name: str) -> None:
    assert load_recipe(name).excon.background_copies == 2
    assert load_recipe(name, overrides=["excon.background_copies=1"]).excon.background_copies == 1


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_says_where_it_comes_from(name: str) -> None:
    from xeval.training.recipe import FOLDER

    assert (FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("#")
    assert load_recipe(name).description


@pytest.mark.parametrize("name", ["digits", "photo10", "shapes", "photos"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_small_recipes_serve_every_method_with_the_same_optimiser_and_views(name: str, method: str) -> None:
    recipe, reference = load_recipe(name, method), load_recipe(name, "supcon")
    assert recipe.method == method
    assert (recipe.optimizer, recipe.views, recipe.epochs) == (reference.optimizer, reference.views, reference.epochs)


def test_the_papers_numbers() -> None:
    small, large = load_recipe("excon-cifar100-b128"), load_recipe("excon-cifar100-b256", "excon")
    assert (small.batch_size, small.epochs, small.optimizer.lr, small.excon.explain_from_epoch) == (128, 200, 0.5, 0)
    assert (large.batch_size, large.excon.explain_from_epoch) == (256, 100)
    assert load_recipe("excon-cifar100-b256", "exconb").excon.explain_from_epoch == 50
    assert load_recipe("excon-tiny-imagenet", "exconb").excon.explain_from_epoch == 0
    assert load_recipe("supcontrast-cifar100", "simclr").loss.temperature == 0.5
    assert load_recipe("supcontrast-cifar100", "ce").optimizer.lr == 0.8


def test_published_variants_switch_the_two_faults_on() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        published = name.endswith("-published")
        assert (recipe.excon.explain_bn == "train") == published
        assert (recipe.select_on == "test") == published


@pytest.mark.fault("T8")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=0.1", "'optimizer.lrr' is unknown — did you mean 'lr'?"),
        ("batchsize=8", "'batchsize' is unknown — did you mean 'batch_size'?"),
        ("optimizer.lr=-0.1", "'optimizer.lr' is -0.1 but must be greater than 0"),
        ("optimizer.lr=fast", "'optimizer.lr' is 'fast' but must be a valid number"),
        ("optimizer.lr=inf", "'optimizer.lr'"),
        ("optimizer.lr=nan", "'optimizer.lr'"),
        ("epochs=0", "'epochs' is 0 but must be greater than or equal to 1"),
        ("epochs=2.5", "'epochs' is 2.5 but must be a valid integer"),
        ("batch_size=1", "'batch_size' is 1"),
        ("optimizer.name=sdg", "'optimizer.name' is 'sdg'"),
        ("views.crop=[0.9, 0.2]", "must be a range from small to large"),
        ("views.crop=[0.2, 2.0]", "must be shares of the area"),
        ("precision=float16", "'precision' is 'float16' but must be 'float32', 'tf32' or 'bfloat16'"),
        ("views.blur=4", "must be 0 or odd"),
        ("optimizer=3", "'optimizer' is 3"),
        ("epochs", "is not of the form key=value"),
        ("method=exconn", "choose it with --method"),
    ],
)
def test_wrong_keys_and_values_are_one_sentence_with_the_key(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("digits", None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choosing_on_held_out_images_needs_some() -> None:
    with pytest.raises(UsageError, match="select_on = 'heldout' needs heldout > 0"):
        load_recipe("photos", None, ["heldout=0"])


def test_unknown_names_get_the_nearest_match() -> None:
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_recipe("digts")
    with pytest.raises(UsageError, match="did you mean 'exconb'"):
        load_recipe("digits", "exconn-b")
    with pytest.raises(UsageError, match=r"no\.toml does not exist"):
        load_recipe("no.toml")


def test_a_recipe_refuses_methods_it_does_not_serve() -> None:
    with pytest.raises(UsageError, match="it serves ce"):
        load_recipe("clxai-cifar10-ce", "triplet")


def test_missing_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="key 'epochs' is missing"):
        load_recipe(write(tmp_path, MINIMAL.replace("epochs = 2\n", "")))


def test_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(write(tmp_path, "epochs = "))


def test_method_tables_override_common_keys_and_overrides_win(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "[optimizer]\nlr = 0.2\nmomentum = 0.5\n[methods.ce.optimizer]\nlr = 0.4\n")
    assert load_recipe(path).optimizer.lr == 0.2
    ce = load_recipe(path, "ce")
    assert (ce.name, ce.optimizer.lr, ce.optimizer.momentum) == ("mine", 0.4, 0.5)
    assert load_recipe(path, "ce", ["optimizer.lr=0.8"]).optimizer.lr == 0.8


def test_extends_a_file_or_a_packaged_recipe(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL, "base")
    assert load_recipe(write(tmp_path, 'extends = "base.toml"\nepochs = 5\n')).epochs == 5
    child = load_recipe(write(tmp_path, 'extends = "digits"\n[loss]\ntemperature = 0.2\n'))
    assert (child.dataset, child.loss.temperature) == ("digits", 0.2)
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(write(tmp_path, 'extends = "mine.toml"\n'))


def test_hash_depends_on_settings_not_on_names(tmp_path: Path) -> None:
    first = recipe_hash(load_recipe(write(tmp_path, MINIMAL, "a")))
    assert first == recipe_hash(load_recipe(write(tmp_path, 'description = "other"\n' + MINIMAL, "b")))
    assert first != recipe_hash(load_recipe(tmp_path / "a.toml", None, ["epochs=3"]))
    assert first != recipe_hash(load_recipe(tmp_path / "a.toml", "ce"))


def test_a_recipe_without_a_precision_is_what_it_was_before_there_was_one() -> None:
    plain = load_recipe("digits", "excon")
    assert "precision" not in result_settings(plain.model_dump(mode="json"))
    named = {recipe_hash(load_recipe("digits", "excon", [f"precision={name}"])) for name in ("float32", "bfloat16")}
    assert len({recipe_hash(plain), *named}) == 3


@pytest.mark.parametrize("name", recipe_names())
def test_no_packaged_recipe_names_a_precision(name: str) -> None:
    assert load_recipe(name).precision is None


def test_schema_knows_the_keys_of_a_file() -> None:
    schema = json_schema()
    assert {"extends", "serves", "methods", "optimizer", "epochs"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
