"""Shares scoring among ranks: rank 0 sends the list of work to all, and each sends the values of a chunk back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np

from xeval.errors import DataError
from xeval.runtime.distributed import Processes
from xeval.scoring.blocks import Chunk, Work
from xeval.scoring.plan import Plan
from xeval.scoring.scorer import Blocks, Failure, News, Scorer
from xeval.scoring.store import Block


def shared_work(processes: Processes, plan: Plan, todo: Work | None) -> Work | None:
    """Return rank 0's list of work on every rank; None where everything is done.

    Raises :class:`DataError` where a rank has planned something else from files of the same name.
    """
    if processes.world == 1:
        return todo
    identity = [plan.loaded.sha256, plan.data_key, plan.protocol.hash(), plan.layer, plan.code]
    message = None
    if processes.main:
        work = [
            [chunk.first, len(chunk.positions), [plan.tasks.index(task) for task in tasks]]
            for chunk, tasks in todo or []
        ]
        message = {"identity": identity, "work": None if todo is None else work}
    said = processes.from_main(message)
    with processes.together():
        if said["identity"] != identity:
            raise DataError(
                f"rank {processes.rank} finds another checkpoint or other data than rank 0",
                "put them where all machines see the same files",
            )
    if said["work"] is None:
        return None
    positions = [int(i) for i in plan.chosen]
    return [
        (Chunk(first, positions[first : first + count]), [plan.tasks[number] for number in numbers])
        for first, count, numbers in said["work"]
    ]


def collected(processes: Processes, scorer: Scorer, blocks: Blocks) -> list[Blocks]:
    """Return on rank 0 the blocks that the ranks have computed, in their order, and on the other ranks an empty list.

    The scorer of rank 0 also takes over the failures and passes of the others.
    """
    if processes.world == 1:
        return [blocks]
    own = News([], 0) if processes.main else scorer.take_news()
    parts = [unpacked(part) for part in processes.to_main(packed(blocks, own))]
    for _, news in parts:
        scorer.add_news(news)
    return [blocks for blocks, _ in parts]


def packed(blocks: Blocks, news: News) -> bytes:
    """Return blocks and news as bytes: the length of a JSON header, the header, then values and masks."""
    about = [[key, block.values.shape, list(block.reasons)] for key, block in blocks.items()]
    header = json.dumps({"blocks": about, "news": asdict(news)}).encode()
    arrays = [array for block in blocks.values() for array in (block.values, *block.reasons.values())]
    return b"".join([len(header).to_bytes(8, "little"), header, *(array.tobytes() for array in arrays)])


def unpacked(data: bytes) -> tuple[Blocks, News]:
    """Return the blocks and news of :func:`packed`."""
    place = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:place])
    blocks: Blocks = {}
    for key, shape, reasons in header["blocks"]:
        values = np.frombuffer(data, np.float64, math.prod(shape), place).reshape(shape)
        place += values.nbytes
        masks = {}
        for kind, text in reasons:
            masks[kind, text] = np.frombuffer(data, np.bool_, shape[0], place)
            place += shape[0]
        blocks[key if isinstance(key, str) else tuple(key)] = Block(values, masks)
    told = header["news"]
    return blocks, News([Failure(**failure) for failure in told["failures"]], told["passes"], told["overflows"])
