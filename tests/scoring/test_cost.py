"""What scoring costs, part by part."""

import mmap
from itertools import count
from types import SimpleNamespace

import torch

from tests.scenes import images, small_model
from xeval.engine import Engine
from xeval.runtime.memory import peak_memory, reset_peak
from xeval.scoring import cost
from xeval.scoring.cost import Meter

CPU = torch.device("cpu")


def test_parts_are_summed_under_their_names(monkeypatch):
    ticks = count()  # every part takes a second
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    engine = Engine(small_model(), batch_size=4)
    meter = Meter(engine, CPU)
    for _ in range(2):
        with meter.part("grad-cam"):
            engine.logits(images(3))
        with meter.part(metric="drop"):
            engine.logits(images(2))
        with meter.part("grad-cam", "drop"):
            engine.logits(images(1))
        meter.images += 3
    found = meter.record()
    assert found["images"] == 6
    assert found["explainers"]["grad-cam"]["passes"] == 6
    assert found["metrics"]["drop"]["shared"]["passes"] == 4
    assert found["metrics"]["drop"]["rows"]["grad-cam"]["passes"] == 2
    assert found["metrics"]["drop"]["rows"]["grad-cam"]["seconds"] == 2
    meter.clear()
    assert meter.record()["images"] == 0
    assert not meter.record()["metrics"]


def test_the_peak_is_that_of_the_part():
    if peak_memory(CPU) is None:
        return
    meter, size = Meter(Engine(small_model()), CPU), 256 * 2**20
    with meter.part("large"), mmap.mmap(-1, size) as pages:  # the allocator may hold as much from earlier tests
        pages.write(bytes(size))
    with meter.part("small"):
        bytes(4)
    peaks = {name: spent.peak for (name, _), spent in meter.parts.items()}
    assert peaks["large"] - peaks["small"] > 0.8 * size
    reset_peak(CPU)
    assert peak_memory(CPU) < peaks["large"] - 0.8 * size
