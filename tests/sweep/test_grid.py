"""Seeds, and keys with several values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xeval.errors import UsageError
from xeval.sweep.grid import Axis, combinations, divide, full_key, parse_seeds, split_values
from xeval.training.settings import Recipe


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-5", (0, 1, 2, 3, 4, 5)), ("3", (3,)), ("0,2,7", (0, 2, 7)), ("0-2, 8", (0, 1, 2, 8)), ("4-4", (4,))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "5-0", "0-", "-1", "1.5", "0,0", "0-3,2", "0-99999999", "0,,1"])
def test_seeds_that_are_none(text):
    with pytest.raises(UsageError, match=r"the seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,50,100", ["0", "50", "100"]),
        ("[0.2,1.0]", ["[0.2,1.0]"]),
        ("[0.2,1.0], [0.5, 1.0]", ["[0.2,1.0]", "[0.5, 1.0]"]),
        ("{a=1,b=[2,3]},4", ["{a=1,b=[2,3]}", "4"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ('"]",1', ['"]"', "1"]),
        ("grad-cam", ["grad-cam"]),
        ("", [""]),
    ],
)
def test_commas_divide_outside_brackets_and_quotes_only(text, values):
    assert split_values(text) == values


@given(st.lists(st.recursive(st.integers().map(str), lambda inner: st.lists(inner).map(",".join).map("[{}]".format))))
def test_joined_values_come_apart_again(values):
    assert split_values(",".join(values)) == (values or [""])


def test_one_key_may_have_several_values_and_an_array_is_one():
    fixed, axes = divide(["epochs=5", "views.crop=[0.2,1.0]", "explain_from_epoch=0,50,100", "name=x"], Recipe)
    assert fixed == ["epochs=5", "views.crop=[0.2,1.0]", "name=x"]
    assert axes == [Axis("excon.explain_from_epoch", ("0", "50", "100"))]


def test_several_keys_make_every_combination():
    axes = [Axis("a", ("1", "2")), Axis("b", ("x", "y"))]
    assert combinations(axes) == [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]]
    assert combinations([]) == [[]]


def test_short_names():
    assert full_key("explain_from_epoch", Recipe) == "excon.explain_from_epoch"
    assert full_key("epochs", Recipe) == "epochs"  # the recipe's own comes before head.epochs
    assert full_key("temperature", Recipe) == "loss.temperature"
    assert full_key("no-such-key", Recipe) == "no-such-key"  # the recipe refuses it by name
    with pytest.raises(UsageError, match=r"'momentum' stands in several tables.*optimizer.momentum.*head.optimizer"):
        full_key("momentum", Recipe)


@pytest.mark.parametrize("override", ["epochs=1,1", "epochs=1,,2", "epochs=,1"])
def test_values_given_twice_or_not_at_all(override):
    with pytest.raises(UsageError, match=r"lists a value twice, or none"):
        divide([override], Recipe)
