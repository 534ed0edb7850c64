"""Choose torch devices by name, and wait for them."""

from __future__ import annotations

import torch

from xeval.errors import UsageError
from xeval.runtime.endings import first_line


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        UsageError: the device cannot be used.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises an AssertionError where it was built without CUDA
        raise UsageError(f"the device {name!r} cannot be used ({first_line(error)})", "use --device auto") from None
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work submitted to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
