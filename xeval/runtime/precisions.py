"""The formats of numbers that passes of a network can be computed in, by the names that PyTorch gives them."""

from __future__ import annotations

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["float32", "tf32", "float16", "bfloat16"]
