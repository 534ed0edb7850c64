"""Decodes the images of the next block while the device works on the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def prefetched(items: Sequence[Item], read: Callable[[Item], Read]) -> Iterator[Read]:
    """Yield ``read(item)`` for each item, reading one item ahead in a thread.

    An error of ``read`` is raised when its item is due.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        coming = [pool.submit(read, item) for item in items[:1]]
        for number in range(len(items)):
            found = coming.pop().result()
            coming = [pool.submit(read, later) for later in items[number + 1 : number + 2]]
            yield found
