"""Reading ahead: the images of the next block are decoded while the device works on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def prefetched(items: Sequence[Item], read: Callable[[Item], Read]) -> Iterator[Read]:
    """What ``read`` makes of each item, one item in advance in a thread; an error comes at its item's turn."""
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        coming = [pool.submit(read, item) for item in items[:1]]
        for number in range(len(items)):
            found = coming.pop().result()
            coming = [pool.submit(read, later) for later in items[number + 1 : number + 2]]
            yield found
