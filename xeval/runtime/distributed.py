"""One job runs in several processes, which ``torchrun`` starts; this module holds what they exchange.

Each process is a *rank* of the job's *world*. Only rank 0, the main rank, prints, holds locks and writes files. The
other ranks compute their share and send it to rank 0. Without ``torchrun`` there is one rank and no communication.

Work between two exchanges runs inside :meth:`Processes.together`: an error on any rank is raised on all of them. When
a rank dies, its connections close, which ends the exchange that the others wait in. Messages are JSON and raw bytes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xeval.errors import (
    BusyError,
    CheckpointError,
    DataError,
    InternalError,
    Interrupted,
    PartialError,
    ResourceError,
    Terminated,
    UsageError,
    XevalError,
)
from xeval.runtime.endings import ending, first_line
from xeval.runtime.progress import Progress, Silent

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

STEP = timedelta(minutes=10)  # limit for the tensors of a training step: all ranks reach them at about the same time
MESSAGE = timedelta(days=1)  # limit while one rank computes or writes and the others wait; a death is noticed at once
GRACE = 60.0  # seconds that rank 0 has to print an error before the other ranks exit
OWN = "only this rank knows of this error"
KINDS: dict[int, type[XevalError]] = {
    kind.exit_code: kind
    for kind in (
        InternalError,
        UsageError,
        DataError,
        CheckpointError,
        ResourceError,
        BusyError,
        PartialError,
        Interrupted,
        Terminated,
    )
}


class Processes:
    """One process of a job, with its rank and the size of its world; without arguments, the job has one process."""

    def __init__(
        self, rank: int = 0, world: int = 1, *, device: str = "auto", messages: ProcessGroup | Any = None
    ) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.agreed: Exception | None = None
        self._messages = messages

    @property
    def main(self) -> bool:
        """Whether this rank is the one that prints and writes."""
        return self.rank == 0

    def progress(self, progress: Progress) -> Progress:
        """Return ``progress`` on the main rank and a silent one on the others."""
        return progress if self.main else Silent()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the body, which must not exchange anything; if it fails on any rank, raise the first error on all."""
        if self.world == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        found = [end for end in self.exchange(None if error is None else _told(error)) if end is not None]
        if found:
            status, problem, remedy = found[0]
            self.agreed = KINDS.get(status, XevalError)(problem, remedy)
            raise self.agreed from error

    @contextmanager
    def locked(self, directory: Path) -> Iterator[None]:
        """Hold the lock of a directory; the main rank takes it for all ranks."""
        from xeval.runtime.locks import locked

        with ExitStack() as held:
            with self.together():
                if self.main:
                    held.enter_context(locked(directory))
            yield

    def exchange(self, content: Any) -> list[Any]:
        """Return every rank's ``content`` (any JSON) in rank order; all ranks have to call this at the same point."""
        if self.world == 1:
            return [content]
        return [json.loads(said) for said in self._sent(json.dumps(content).encode(), everywhere=True)]

    def from_main(self, content: Any) -> Any:
        """Return the main rank's ``content``; that of the other ranks is ignored."""
        return self.exchange(content if self.main else None)[0]

    def to_main(self, data: bytes) -> list[bytes]:
        """Return the bytes of all ranks in rank order on the main rank, and an empty list on the others."""
        return [data] if self.world == 1 else self._sent(data, everywhere=False)

    def _sent(self, data: bytes, *, everywhere: bool) -> list[bytes]:
        """Send bytes whose lengths differ between ranks: first the lengths, then all bytes padded to the longest."""
        import torch
        import torch.distributed as dist

        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with _alive():
            dist.all_gather(lengths, torch.tensor([len(data)]), group=self._messages)
            longest = max(1, *(int(length) for length in lengths))
            sent = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
            parts = [torch.empty_like(sent) for _ in lengths] if everywhere or self.main else []
            if everywhere:
                dist.all_gather(parts, sent, group=self._messages)
            else:
                dist.gather(sent, parts or None, dst=0, group=self._messages)
        return [part.numpy().tobytes()[: int(length)] for part, length in zip(parts, lengths, strict=False)]

    def counts(self, own: int) -> list[int]:
        """Return the number that each rank passes, in rank order."""
        return [int(count) for count in self.exchange(own)]

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the first ``counts[r]`` rows of every rank r, concatenated; gradients reach this rank's own rows only.

        Every rank computes the whole loss from all rows and differentiates it with respect to its own rows alone. So
        the gradient of the loss is the plain sum over ranks (:meth:`add_gradients`), with no factor.
        """
        if self.world == 1:
            return rows
        import torch
        import torch.distributed as dist

        own = rows[: counts[self.rank]]
        if not max(counts):
            return own
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        with _alive():
            dist.all_gather(parts, padded)
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        return torch.cat([*parts[: self.rank], own, *parts[self.rank + 1 :]])

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over ranks, all in one message; skip parameters that have no gradient."""
        if self.world == 1:
            return
        import torch.distributed as dist

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        _in_one(gradients, dist.all_reduce)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of the main rank."""
        if self.world == 1:
            return
        import torch.distributed as dist

        of_kind: dict[Any, list[Tensor]] = {}
        for tensor in tensors:
            of_kind.setdefault(tensor.dtype, []).append(tensor)
        for alike in of_kind.values():
            _in_one(alike, lambda flat: dist.broadcast(flat, src=0))


ALONE = Processes()


def _in_one(tensors: list[Tensor], run: Callable[[Tensor], object]) -> None:
    """Run a collective operation on one vector that holds all ``tensors``, and copy the result back into them."""
    import torch

    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    with _alive(), torch.no_grad():
        run(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Yield this process as one of those of torchrun, each with its own GPU; without torchrun, as the only one.

    Raises:
        UsageError: a machine has fewer GPUs than ranks.
    """
    if world() == 1:
        yield Processes(device=device)
        return
    import torch
    import torch.distributed as dist

    where = own_device(device)
    on_gpu = where.startswith("cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(where)
    with _alive():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=STEP)
        messages = dist.new_group(backend="gloo", timeout=MESSAGE)
    processes = Processes(dist.get_rank(), dist.get_world_size(), device=where, messages=messages)
    try:
        yield processes
    except Exception as error:
        if error is not processes.agreed:
            error.add_note(OWN)
        raise
    processes.exchange(None)  # no rank closes its connections while another still works
    dist.destroy_process_group()  # only after success: after an error, it could hang (see end())


def world() -> int:
    """Return the number of ranks of the job, which torchrun sets in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def own_device(asked: str) -> str:
    """Return the device of this rank: ``asked``, or for a plain ``auto`` or ``cuda`` the GPU of its local number."""
    import torch

    if asked not in ("auto", "cuda"):
        return asked
    if not torch.cuda.is_available():
        return "cpu" if asked == "auto" else asked
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus:
        raise UsageError(f"{here} ranks on a machine with {gpus} GPUs", f"use --nproc-per-node={gpus} or --device cpu")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def require_one(command: str | None) -> None:
    """Raise :class:`UsageError` for a command that does not support several ranks, as each would run it on its own."""
    if world() > 1 and command not in ("score", "train"):
        raise UsageError(f"{command} runs in one process", "torchrun is for score and train: leave it out")


def stay_silent(error: BaseException, status: int) -> None:
    """Exit without a message where rank 0 prints this error for all ranks; return where this rank has to print it.

    torchrun ends every rank as soon as one has exited with an error, so the other ranks wait until rank 0 has exited.
    """
    if world() == 1 or os.environ.get("RANK") == "0" or OWN in getattr(error, "__notes__", ()):
        return
    if isinstance(error, Exception):  # not a signal, which every rank receives
        signal.signal(signal.SIGTERM, lambda _number, _frame: end(status))
        time.sleep(GRACE)
    end(status)


def end(status: int) -> NoReturn:
    """Exit with a status. A rank skips the interpreter's clean-up, where the threads of connections abort or hang."""
    if world() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _told(error: Exception) -> list[Any]:
    """Return exit status, problem and remedy of an error; the traceback of a defect is written to a file."""
    end = ending(error)
    return [end.status, end.problem, end.remedy]


@contextmanager
def _alive() -> Iterator[None]:
    """Raise :class:`ResourceError` for a broken connection, which means that another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            f"another of the {world()} ranks has ended ({first_line(error)})",
            "its own message says why; run the same command again to go on",
        ) from None
