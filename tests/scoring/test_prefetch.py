"""Reading ahead."""

import threading

import pytest

from xeval.scoring.prefetch import prefetched


def test_order():
    assert list(prefetched([3, 1, 2], lambda item: item * 10)) == [30, 10, 20]
    assert list(prefetched([], str)) == []


def test_the_next_item_is_read_while_this_one_is_worked_on():
    read = [threading.Event() for _ in range(3)]

    def reader(number):
        read[number].set()
        return number

    for item in prefetched([0, 1, 2], reader):
        if item < 2:
            assert read[item + 1].wait(60)  # before anyone asks for it
        if item == 0:
            assert not read[2].is_set()  # one ahead, not all: memory stays bounded


def test_an_error_comes_at_its_items_turn():
    def reader(number):
        if number == 1:
            raise OSError("gone")
        return number

    found = prefetched([0, 1, 2], reader)
    assert next(found) == 0
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    for _ in prefetched(list(range(100)), lambda number: number):
        break
    assert threading.active_count() == before
