"""Batches: every image once, in an order of (seed, epoch), the same from memory and from the data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xeval.data import open_dataset
from xeval.training import batches as module
from xeval.training.batches import Pool, make_pool

CPU = torch.device("cpu")


@pytest.mark.fault("T5")
def test_every_image_once_and_no_batch_of_one(pool: Pool) -> None:
    for size in (5, 7, 23, 24, 100):
        rows = [batch.rows for batch in pool.batches(size, pool.shuffled(0, "a"))]
        assert sorted(np.concatenate(rows).tolist()) == list(range(24))
        assert min(len(row) for row in rows) > 1
        assert len(rows) == pool.steps(size)


def test_order_depends_on_seed_and_stream(pool: Pool) -> None:
    first = pool.shuffled(0, "encoder-order:1")
    assert torch.equal(first, pool.shuffled(0, "encoder-order:1"))
    assert not torch.equal(first, pool.shuffled(1, "encoder-order:1"))
    assert not torch.equal(first, pool.shuffled(0, "encoder-order:2"))


def test_images_labels_and_keys_belong_together(pool: Pool) -> None:
    batch = pool.take(torch.tensor([5, 2]))
    assert torch.equal(batch.images, pool.split.read([5, 2]))
    assert batch.labels.tolist() == pool.split.labels[[5, 2]].tolist()
    assert torch.equal(batch.keys, pool.keys[[5, 2]])


def test_large_data_stay_in_the_data_set(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESIDENT_BYTES", 100)
    split = open_dataset("digits", None, 8).split("train")
    lazy = make_pool(split, np.arange(24), CPU)
    assert lazy.resident is None
    for ours, theirs in zip(lazy.batches(7), pool.batches(7), strict=True):
        assert torch.equal(ours.images, theirs.images)
