"""Counted, packed passes."""

import pytest
import torch

from tests.scenes import images, scene_of, small_model
from xeval.engine import Engine, deterministic, pick_device, softmax64
from xeval.engine.batch_size import probe_batch_size
from xeval.errors import ResourceError, UsageError
from xeval.explainers import EXPLAINERS
from xeval.runtime.memory import resources


def test_class_probability_equals_one_pass_per_perturbation():
    model, x = small_model(), images(3)
    scene = scene_of(model, x, batch_size=7)
    shifts = torch.linspace(-1, 1, 5)
    found = scene.engine.class_probability(lambda n, j: x[n] + shifts[j][:, None, None, None], 5, scene.targets)
    with torch.no_grad():
        for n in range(3):
            for j in range(5):
                expected = softmax64(model(x[n : n + 1] + shifts[j]))[0, scene.targets[n]]
                assert found[n, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_passes_are_counted_whoever_makes_them():
    model, x = small_model(), images(4)
    engine, targets = Engine(model, batch_size=3), torch.tensor([0, 1, 2, 3])
    engine.logits(x)
    assert engine.passes == 4
    engine.class_probability(lambda n, _j: x[n], 6, targets)
    assert engine.passes == 4 + 24
    engine.explain(EXPLAINERS["grad-cam"], model.pooled_layer, x, targets)
    assert engine.passes == 4 + 24 + 4
    engine.explain(EXPLAINERS["integrated-gradients"], model.pooled_layer, x, targets)
    assert engine.passes >= 32 + 4 * 50
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_float64_softmax_separates_what_float32_ties():
    logits = torch.tensor([[25.0, 0.0], [26.0, 0.0]])
    assert softmax64(logits, single=True)[0, 0] == softmax64(logits, single=True)[1, 0] == 1
    assert softmax64(logits)[0, 0] < softmax64(logits)[1, 0] < 1


def test_the_batch_size_is_found_by_probing():
    assert probe_batch_size(small_model(), images(1), largest=64) in (16, 32, 64)


class Counting(torch.nn.Module):
    """Remembers how many images each pass took."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return x.mean((2, 3))


@pytest.mark.parametrize("there", [0, 1, 5, 47, 48, 49, 200, 1000])
def test_probing_passes_no_more_images_than_there_are(there):
    network = Counting()
    size = probe_batch_size(network, images(1), images=there)
    assert sum(network.seen) <= there
    assert 1 <= size <= max(1, there)
    rate = Engine(counting := Counting(), batch_size=size).rate(images(1), there)
    assert sum(counting.seen) <= there
    assert rate > 0
    assert probe_batch_size(network, images(1), largest=3) <= 3


def test_devices():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="cannot be used"):
        pick_device("abacus")


# ---- memory


class Small(torch.nn.Module):
    """A network on a device with memory for ``most`` images; remembers the sizes that were tried."""

    def __init__(self, most, error):
        super().__init__()
        self.network, self.most, self.error, self.tried = small_model(), most, error, []
        self.pooled_layer = f"network.{self.network.pooled_layer}"

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.network(x)


OUT = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
]


@pytest.mark.fault("S5")
@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_batches_are_halved_from_where_they_failed(error):
    model, x = Small(8, error), images(20)
    engine = Engine(model, batch_size=64)
    assert torch.allclose(engine.logits(x), small_model()(x), atol=1e-5)
    assert model.tried == [20, 10, 5, 5, 5, 5]
    assert engine.batch_size == 5
    model.tried.clear()
    engine.batch_size = 64
    found = engine.class_probability(lambda n, _j: x[n], 5, torch.zeros(20, dtype=torch.long))
    assert model.tried == [64, 32, 16, *[8] * 12, 4]
    model.tried.clear()
    assert torch.equal(engine.class_probability(lambda n, _j: x[n], 5, torch.zeros(20, dtype=torch.long)), found)
    assert model.tried == [*[8] * 12, 4]  # the working size is remembered


@pytest.mark.fault("S5")
def test_maps_do_not_depend_on_the_batch_that_fits():
    model, x = Small(2, OUT[0]), images(6)
    targets = torch.zeros(6, dtype=torch.long)
    found = Engine(model, batch_size=6).explain(EXPLAINERS["grad-cam"], model.pooled_layer, x, targets)
    whole = small_model()
    assert torch.allclose(found, EXPLAINERS["grad-cam"].explain(whole, whole.pooled_layer, x, targets), atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.fault("S6")
def test_no_memory_for_one_image():
    model = Small(0, OUT[0])
    with pytest.raises(ResourceError, match="out of memory with one image a batch — .*--batch-size") as caught:
        Engine(model, batch_size=4).logits(images(4))
    assert model.tried == [4, 2, 1]
    assert "--device cpu" in caught.value.remedy


@pytest.mark.fault("S5")
def test_a_failed_pass_is_free_before_the_next_one():
    """The exception's traceback holds the failed pass's tensors: they are gone before the next pass starts."""
    import weakref

    held = []

    class Leaky(Small):
        def forward(self, x):
            assert all(reference() is None for reference in held)
            activation = torch.zeros(len(x), 1000)
            held.append(weakref.ref(activation))
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.network(x)

    Engine(Leaky(2, OUT[0]), batch_size=8).logits(images(8))
    assert len(held) == 6


def test_probing_stops_where_memory_ends():
    assert probe_batch_size(Small(40, OUT[0]), images(1)) in (16, 32)
    assert Engine(Small(8, OUT[0]), batch_size=64).rate(images(1)) > 0


def test_other_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="a defect"):
        Engine(Small(1, RuntimeError("a defect")), batch_size=4).logits(images(4))
    with pytest.raises(ZeroDivisionError), resources():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="a defect"), resources():
        raise RuntimeError("a defect")


def test_deterministic_kernels_for_a_while(monkeypatch):
    import os

    def state():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.utils.deterministic.fill_uninitialized_memory,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = state()
    inside = []

    def work():
        inside.append(state())
        raise KeyError

    with pytest.raises(KeyError), deterministic():
        work()
    assert inside == [(True, True, False, False, False, False, ":4096:8")]
    assert state() == before
