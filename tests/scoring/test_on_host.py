"""Columns on their way from the device to the store."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from xeval.metrics import Values
from xeval.scoring import scorer
from xeval.scoring.scorer import on_host, to_blocks


class Copies(TorchFunctionMode):
    """Counts what is copied to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.Tensor.cpu
        return func(*args, **(kwargs or {}))


def columns():
    """A column of numbers, one of curves, one of classes; some values are undefined, broken or not finite."""
    broken = torch.tensor([False, True, False, False])
    empty = torch.tensor([True, True, False, False])
    numbers = torch.tensor([0.1, 0.2, float("inf"), 0.4], dtype=torch.float64)
    curves = torch.arange(12.0).reshape(4, 3)
    curves[3, 1] = torch.nan
    return {
        "numbers": (Values(numbers, {"empty map": empty}), {"map": broken}),
        "curves": (Values(curves), {"map": broken}),
        "classes": (Values(torch.arange(4)), {}),
    }


@pytest.mark.parametrize("elsewhere", [False, True])
def test_values_reasons_and_errors_arrive(elsewhere, monkeypatch):
    """Broken beats undefined, undefined beats not finite; whatever is not ok is NaN."""
    monkeypatch.setattr(scorer, "_is_elsewhere", lambda _tensor: elsewhere)
    with Copies() as copies:
        found = to_blocks(columns())
    assert copies.count == int(elsewhere)
    nan = np.nan
    assert np.array_equal(found["numbers"].values, [nan, nan, nan, 0.4], equal_nan=True)
    assert np.array_equal(found["curves"].values, [[0, 1, 2], [nan] * 3, [6, 7, 8], [nan] * 3], equal_nan=True)
    assert found["classes"].values.tolist() == [0, 1, 2, 3]
    told = {key: {text: where.tolist() for (_, text), where in block.reasons.items()} for key, block in found.items()}
    no = [False] * 4
    assert told["numbers"] == {
        "map": [False, True, False, False],
        "empty map": [True, False, False, False],
        "not finite": [False, False, True, False],
    }
    assert told["curves"] == {"map": [False, True, False, False], "not finite": [False, False, False, True]}
    assert told["classes"] == {"not finite": no}


def test_the_columns_of_a_device_are_not_changed(monkeypatch):
    monkeypatch.setattr(scorer, "_is_elsewhere", lambda tensor: tensor.dtype == torch.float32)
    tensors = [torch.ones(2, 3), torch.zeros(2, dtype=torch.float64), torch.full((1,), 7.0)]
    found = on_host(tensors)
    assert [array.tolist() for array in found] == [[[1, 1, 1], [1, 1, 1]], [0, 0], [7]]
    found[0][0, 0] = 5
    assert tensors[0].tolist() == [[1, 1, 1], [1, 1, 1]]
