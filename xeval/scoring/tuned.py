"""What is measured of a network on a device before the work begins, and used again by all later parts of the work.

It is kept beside the rows, so that a resumed run and all ranks compute in the same form and batches, and so give the
same bits.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xeval.runtime.files import digest
from xeval.scoring.plan import Plan
from xeval.scoring.store import Store


class Tuned(BaseModel):
    """The form of the network for plain passes, the batch size and the speed.

    ``batch_size`` is None where it was given and not found. ``rates`` are the images a second of each form that was
    timed, and ``jitter`` is the 99th percentile of |Δp|, by which the precision of the passes moves the probability of
    the explained class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: str
    batch_size: int | None = Field(default=None, ge=1, le=2**20)
    rates: dict[str, float] = {}
    jitter: float = Field(default=0.0, ge=0, le=1)


def place(plan: Plan, device: torch.device) -> str:
    """Return the key under which it is kept: the network, the size of the images, the precision and the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return digest([plan.loaded.sha256, plan.info.shape, plan.protocol.precision, name, torch.__version__])


def recalled(store: Store, key: str) -> Tuned | None:
    """Return what a store knows; None where it knows nothing, or nothing that can be."""
    try:
        return Tuned.model_validate(store.tuned(key))
    except ValidationError:
        return None
