"""Run passes of a frozen network on a device: batched, counted, in the fastest form that gives the same numbers."""

from xeval.engine.batch_size import copies, probe_batch_size, throughput
from xeval.engine.devices import pick_device, synchronize
from xeval.engine.folding import Network, compiled, network_of
from xeval.engine.passes import Engine
from xeval.engine.precision import deterministic, softmax64

__all__ = [
    "Engine",
    "Network",
    "compiled",
    "copies",
    "deterministic",
    "network_of",
    "pick_device",
    "probe_batch_size",
    "softmax64",
    "synchronize",
    "throughput",
]
