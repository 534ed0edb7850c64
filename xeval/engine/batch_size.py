"""Find how many images to pass through a network at a time.

Measuring passes images too: never more of them than there are to pass afterwards.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from xeval.engine.folding import Forward
from xeval.engine.timing import RUNS, throughput
from xeval.runtime.memory import if_it_fits

FIRST, LARGEST = 16, 1024


def probe_batch_size(network: Forward, example: Tensor, *, largest: int = LARGEST, images: float = math.inf) -> int:
    """Return the smallest batch size within 5 % of the best throughput, found by doubling; ``example`` is 1×C×H×W.

    At most ``images`` images are passed to find it: the best of the sizes that these suffice for, or the first size, as
    far as there are so many, where they suffice for none.
    """
    size = best_size = int(max(1, min(FIRST, largest, images)))
    best_rate = 0.0
    while size <= largest and RUNS * size <= images:
        images -= RUNS * size
        rate = if_it_fits(partial(throughput, network, example, size))
        if rate is None:
            return best_size if best_rate else 1
        if rate > best_rate * 1.05:
            best_size, best_rate = size, rate
        elif size >= 4 * best_size:
            break
        size *= 2
    return best_size
