import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import reference
from tests.scenes import SIDE, explained, images, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.complexity import entropy, gini
from xeval.metrics.metric import EMPTY_MAP

maps_of_any_kind = hnp.arrays(np.float32, (5, 6), elements=st.floats(0, 100, width=32)).filter(lambda a: a.sum() > 1e-3)


@given(maps_of_any_kind)
@settings(max_examples=60, deadline=None)
def test_equal_loops_and_stay_in_range(a):
    tensor = torch.tensor(a)[None, None]
    assert entropy(tensor).item() == pytest.approx(reference.entropy(a), abs=1e-9)
    assert gini(tensor).item() == pytest.approx(reference.gini(a), abs=1e-9)
    assert -1e-12 <= entropy(tensor).item() <= math.log(30) + 1e-9
    assert entropy(7 * tensor).item() == pytest.approx(entropy(tensor).item(), abs=1e-5)


def test_equal_quantus():
    import quantus

    maps = images(6, 1, seed=2).clamp_min(0)
    options = {"normalise": False, "abs": True, "disable_warnings": True}
    x, y, a = np.zeros((6, 1, SIDE, SIDE), np.float32), np.zeros(6, int), maps.double().numpy()
    assert np.allclose(entropy(maps).numpy(), quantus.Complexity(**options)(None, x, y, a.copy()), atol=1e-6)
    assert np.allclose(gini(maps).numpy(), quantus.Sparseness(**options)(None, x, y, a.copy()), atol=1e-6)


def test_by_hand():
    uniform, one_hot = torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    one_hot[..., 0, 0] = 3
    assert entropy(uniform).item() == pytest.approx(6.931471805599453)
    assert entropy(one_hot).item() == 0
    assert gini(uniform).item() == pytest.approx(0, abs=1e-12)
    assert gini(one_hot).item() == pytest.approx(1 - 1 / 1024, abs=1e-4)


def test_area_native_and_empty():
    scene = scene_of(small_model(), images(3))
    native = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    native[2] = -1
    metric = METRICS["complexity"]
    found = metric.score(explained(scene, native), metric.settings(), None)
    assert found["complexity.native"].value[0].item() == pytest.approx(reference.entropy(native[0].numpy()), abs=1e-6)
    assert found["complexity.entropy"].value[0] > found["complexity.native"].value[0]
    nats = found["complexity.entropy"].value[0].item()
    assert found["complexity.area"].value[0].item() == pytest.approx(math.exp(nats) / SIDE**2)
    assert found["complexity.empty"].value.tolist() == [0, 0, 1]
    assert found["complexity.entropy"].undefined[EMPTY_MAP].tolist() == [False, False, True]
