"""The accelerator of this machine; tests marked ``device`` skip without one, or use what XEVAL_TEST_DEVICE names."""

from __future__ import annotations

import os

import pytest
import torch

from xeval.engine import pick_device


@pytest.fixture(scope="session")
def device() -> torch.device:
    found = pick_device(os.environ.get("XEVAL_TEST_DEVICE", "auto"))
    if found.type == "cpu" and "XEVAL_TEST_DEVICE" not in os.environ:
        pytest.skip("there is no accelerator here; XEVAL_TEST_DEVICE=cpu runs these tests without one")
    return found
