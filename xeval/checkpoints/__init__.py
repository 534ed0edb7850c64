"""From a file to a network: run directories, weight files, and everything hostile that such files may hold.

Nothing else in the package opens a weight file. What other projects wrote is taken apart in
:mod:`xeval.checkpoints.convert`, in a process of its own.
"""

from xeval.checkpoints.card import (
    MANIFEST,
    RunCard,
    Selection,
    Weights,
    read_card,
    run_name,
    write_card,
)
from xeval.checkpoints.load import (
    LoadedModel,
    export,
    load_encoder,
    load_model,
    require_unchanged,
    tensors_sha256,
)
from xeval.checkpoints.weightfiles import read_tensors, write_tensors

__all__ = [
    "MANIFEST",
    "LoadedModel",
    "RunCard",
    "Selection",
    "Weights",
    "export",
    "load_encoder",
    "load_model",
    "read_card",
    "read_tensors",
    "require_unchanged",
    "run_name",
    "tensors_sha256",
    "write_card",
    "write_tensors",
]
