"""Run passes of a frozen network on a device: batched, counted, in the fastest form that gives the same numbers."""

from xeval.engine.devices import pick_device
from xeval.engine.passes import Engine
from xeval.engine.precision import deterministic, softmax64

__all__ = ["Engine", "deterministic", "pick_device", "softmax64"]
