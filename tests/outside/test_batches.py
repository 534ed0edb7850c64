"""The value of an image does not depend on its batch, to the tolerance that the conventions state."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tests.commands import ROOT
from tests.outside.networks import pixels
from tests.outside.oracles import lively
from xeval.engine import Engine, softmax64
from xeval.engine.folding import network_of

STATED = re.search(r"Probabilities agree to (\S+); the largest difference measured is (\S+),", (
    ROOT / "docs" / "conventions.md").read_text(encoding="utf-8"))  # fmt: skip
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (partial(models.resnet18, num_classes=5), 64),
    "mobilenet": (partial(models.mobilenet_v3_small, num_classes=5), 64),
    "transformer": (partial(models.VisionTransformer, 32, 8, 2, 2, 16, 32, num_classes=5), 32),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_probabilities_do_not_depend_on_the_batch(kind: str) -> None:
    """Alone, by sevens, all at once and in another order, as the folded network gives them that scoring uses."""
    assert STATED is not None
    build, side = NETWORKS[kind]
    model, _ = lively(build, side)
    images = (pixels(64, side) - 0.5) * 4
    with torch.no_grad():
        network = network_of(model, images[:1])
    order = torch.arange(64).flip(0)

    def probabilities(batch: int, chosen: Tensor) -> Tensor:
        return softmax64(Engine(model, network=network, batch_size=batch).logits(images[chosen]))

    whole = probabilities(64, torch.arange(64))
    assert 0.1 < float(whole.amax(1).mean()) < 0.999
    others = [probabilities(batch, torch.arange(64)) for batch in (1, 7)] + [probabilities(64, order)[order]]
    assert max(float((one - whole).abs().max()) for one in others) <= float(STATED[1])
