"""Tell exhausted memory and failed devices from defects, and measure the peak of the memory used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from xeval.errors import ResourceError
from xeval.runtime.endings import first_line

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: on the device, in Python or in PyTorch's allocator on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def if_it_fits(run: Callable[[], T]) -> T | None:
    """Return the result of ``run``, or None where memory does not suffice; returning frees what the exception held."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def out_of_memory() -> ResourceError:
    """Return the error for memory that does not suffice even for one image."""
    return ResourceError(
        "out of memory with one image a batch",
        "use --device cpu, fewer metrics or smaller images (--batch-size is already 1); what was saved is kept",
    )


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device itself failed: lost, reset or in an error state that only a new process leaves."""
    lost: type[BaseException] | tuple[()] = getattr(torch, "AcceleratorError", ())  # older versions have none
    said = isinstance(error, RuntimeError) and str(error).startswith(("CUDA error", "HIP error"))
    return said or isinstance(error, lost)


@contextmanager
def resources() -> Iterator[None]:
    """Raise :class:`ResourceError` where memory runs out outside a batch or the device fails."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"out of memory ({first_line(error)})",
                "use a smaller --batch-size, --device cpu or fewer metrics; what was saved is kept",
            ) from None
        if is_device_failure(error):
            raise ResourceError(
                f"the device failed ({first_line(error)})", "run the same command again; what was saved is kept"
            ) from None
        raise


def limit_memory(more: int) -> None:
    """Limit this process to the memory that it has and so many bytes more, and keep it from dumping it; Linux only."""
    if sys.platform != "linux":
        return
    import resource

    limit = int((PROCESS / "statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # proc(5): writing 5 to clear_refs resets the peak of the resident memory to its present size


def memory_kind(device: torch.device) -> str | None:
    """Return what the peak is measured on: the device's allocator, the process, or None if neither can be asked."""
    if device.type == "cuda":
        return "allocated on the device"
    return "resident in the process" if (PROCESS / "clear_refs").exists() else None


def reset_peak(device: torch.device) -> None:
    """Restart the measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
        except OSError:  # not Linux, or not allowed: peak_memory then reports the peak since the start, or None
            return


def peak_memory(device: torch.device) -> int | None:
    """Return the peak since :func:`reset_peak` in bytes, or None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
