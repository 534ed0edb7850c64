"""Read the pickles of the Python CIFAR files without running anything that they ask for."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  (allowed only here: find_class below admits arrays and nothing else)
import pickletools
from typing import Any

from xeval.errors import CheckpointError, DataError

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),  # this is how protocol 2 writes bytes; _latin1 replaces it
}
PLACES = ("PUT", "BINPUT", "LONG_BINPUT")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # the module's name before NumPy 2
        if (module, name) not in ALLOWED:
            raise CheckpointError(
                f"the pickle holds refused globals: {module}.{name}", "use the binary CIFAR files: `xeval data get`"
            )
        return _latin1 if module == "_codecs" else super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    """Replace ``_codecs.encode``: pickled bytes need latin1 only, and other codecs may take any time and memory."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _require_places(data: bytes) -> None:
    """Raise ValueError if a pickle numbers objects beyond its length: the unpickler would allocate room for all."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in PLACES and not 0 <= int(str(argument)) <= len(data):
            raise ValueError(f"object number {argument}")


def load_arrays(data: bytes, name: str) -> dict[str, Any]:
    """Return the dictionary of arrays and lists in a CIFAR pickle, with text as keys.

    Raises:
        CheckpointError: the pickle names a class or function other than those of NumPy's arrays; nothing of it has run.
        DataError: the bytes are damaged, or hold no dictionary.
    """
    try:
        _require_places(data)
        content = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except CheckpointError as fault:
        raise CheckpointError(f"{name}: {fault.problem}", fault.remedy) from None
    except Exception as fault:  # the unpickler raises many kinds of errors on damaged bytes
        raise DataError(f"{name} is damaged ({fault})", "fetch the data set again") from fault
    if not isinstance(content, dict):
        raise DataError(f"{name} holds no dictionary", "fetch the data set again")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
