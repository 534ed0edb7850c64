"""Peak memory of scoring when the number of images grows tenfold.

Each size is scored by ``xeval.score`` in a process of its own, on images that are drawn when they are read, with
features, t-SNE and summary. Memory is the process's largest resident set, on an accelerator what PyTorch allocated.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.rows import Claim, Options, Target, main, row_of
from benchmarks.subjects import device_of, network

GROWTH, LIMIT, UNIT = 10, 1.10, 2**20
METRICS = ("drop", "infidelity", "deletion", "complexity", "sensitivity")
CHILD = "--child"


def peak(arch: str, images: int, device: torch.device, metrics: tuple[str, ...]) -> int:
    """Return the most bytes that scoring takes in a fresh process."""
    given = json.dumps({"arch": arch, "images": images, "device": str(device), "metrics": metrics})
    command = [sys.executable, "-m", "benchmarks.memory", CHILD, given]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(found.stdout.splitlines()[-1])


def child(given: dict[str, Any]) -> int:
    """Score the given number of images of ``shapes`` and return how many bytes that took."""
    from xeval import score

    device = torch.device(given["device"])
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "network.safetensors"
        save_file(network(given["arch"], torch.device("cpu"), classes=5)[0].state_dict(), weights)
        score(
            weights,
            arch=given["arch"],
            dataset="shapes",
            split="train",
            limit=given["images"],
            metrics=tuple(given["metrics"]),
            explainers=("grad-cam", "random", "inverse"),
            batch_size=128,
            device=given["device"],
        )
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes, Linux kibibytes


def measure(options: Options) -> Iterator[Claim]:
    """Yield one row for each architecture: the larger size over the smaller one, measured in turn."""
    device = device_of(options)
    images = options.pick("images", 64, 8)
    metrics = METRICS[3:4] if options.quick else METRICS
    for arch in options.networks(("cnn-tiny",)):
        timed = [
            tuple(peak(arch, count, device, metrics) for count in (images * GROWTH, images))
            for _ in range(options.pick("rounds", 2, 1))
        ]
        yield row_of(
            f"peak memory of scoring {images * GROWTH:,} images over {images:,}, {arch}, 32 px",
            "×",
            [many / few for many, few in timed],
            Target("at most", LIMIT),
            note=f"{max(many for many, _ in timed) / UNIT:.0f} MiB, Python and its libraries included; "
            f"{max(many - few for many, few in timed) / UNIT:.0f} MiB more than the smaller number takes",
            measurements={"bytes": [many for many, _ in timed], "few_bytes": [few for _, few in timed]},
        )


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(child(json.loads(sys.argv[2])))
    else:
        main("memory", __doc__, measure)
