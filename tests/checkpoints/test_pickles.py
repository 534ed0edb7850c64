"""What a pickle would build, against pickles whose nesting is known."""

import pickle
from argparse import Namespace
from collections import OrderedDict

import pytest

from xeval.checkpoints.pickles import MAX_NESTING, objection


def nested(depth):
    """A tuple inside a tuple, ``depth`` tuples in all."""
    inner = ()
    for _ in range(depth - 1):
        inner = (inner,)
    return inner


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [x]}, lambda x: OrderedDict(a=x), lambda x: {x: 1}])
def test_the_limit_is_met_exactly(protocol, wrap):
    """The empty tuple is a constant of the format and does not count; reductions bring a tuple of arguments along."""
    slack = 3
    assert objection(pickle.dumps(wrap(nested(MAX_NESTING - slack)), protocol)) == ""
    assert (
        objection(pickle.dumps(wrap(nested(MAX_NESTING + 2)), protocol))
        == f"tuples nested more than {MAX_NESTING} deep"
    )


def test_many_tuples_side_by_side_are_no_nesting():
    content = {f"layer{i}": ((i, i), [(i,)], Namespace(size=(i, (i,)))) for i in range(2000)}
    assert objection(pickle.dumps(content, 2)) == ""


def test_a_shared_tuple_is_followed_through_the_memo():
    step = ()
    for _ in range(MAX_NESTING + 1):
        step = (step, step)
    assert "nested" in objection(pickle.dumps(step, 2))


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_allocators_are_named_wherever_they_stand(protocol):
    class Zeros:
        def __reduce__(self):
            return bytearray, (1 << 40,)

    assert "bytearray" in objection(pickle.dumps({"a": [1, Zeros()]}, protocol))


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"\x80\x02u.", b"\x80\x02q\0.", b"\xff", b"\x80\x02\x87."])
def test_what_is_no_pickle_raises(data):
    with pytest.raises((ValueError, IndexError)):
        objection(data)
