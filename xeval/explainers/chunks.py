"""Limit how much goes through the network at once, by a budget of pixels instead of a number of images.

A backward pass keeps every activation, so its budget is smaller; at 32 pixels it is 64 images, about 5 GB for the
largest network here (ResNet-50 without strides in the stem).
"""

from __future__ import annotations

from torch import Tensor

FORWARD_PIXELS = 2**19
BACKWARD_PIXELS = 2**16


def at_once(images: Tensor, budget: int) -> int:
    """Return how many images of the size of ``images`` N×C×H×W fit into a budget of pixels, at least one."""
    return max(1, budget // (images.shape[-2] * images.shape[-1]))
