"""``xeval list quantus`` runs every metric of Quantus on a few colour images, as installed and through the bridge."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from xeval.data import normalize, open_dataset
from xeval.engine import Engine
from xeval.explainers.cam import grad_cam
from xeval.metrics import Explained, Scene
from xeval.metrics.metric import ARROWS
from xeval.models import ModelSpec, build
from xeval.perturb.draws import image_keys
from xeval.quantus_bridge.bridge import call, maps_for
from xeval.quantus_bridge.runtime import QUIET, explainer, given, seeded
from xeval.quantus_bridge.table import ENTRIES, Entry
from xeval.runtime.tables import escape_bars, markdown_lines

IMAGES, SIDE = 4, 16
LAYER = "backbone.stage"
HEADER = ("metric", "family", "better", "stock Quantus", "through the bridge", "seconds")


@dataclass(frozen=True)
class Surveyed:
    """One line of the table, made by :func:`survey`: how an entry runs as installed and through the bridge."""

    entry: Entry
    stock: str
    bridge: str
    seconds: float | None

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the line."""
        seconds = "–" if self.seconds is None else f"{self.seconds:.2f}"
        arrow = ARROWS[self.entry.direction].strip() or "–"
        return f"`{self.entry.full_name}`", self.entry.group.lower(), arrow, self.stock, self.bridge, seconds


def rehearsal() -> Explained:
    """Explain four drawn shapes of 16 px, with their masks, by Grad-CAM of a small untrained network."""
    dataset = open_dataset("shapes", size=SIDE)
    split, info = dataset.split("test"), dataset.info
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = ModelSpec(arch="cnn-tiny", num_classes=len(info.classes), in_channels=3, image_size=SIDE)
        model = build(spec).eval()
    positions = list(range(IMAGES))
    images = normalize(split.read(positions), info)
    scene = Scene.of(
        Engine(model),
        images,
        image_keys([split.ids[i] for i in positions]),
        labels=torch.as_tensor(split.labels[positions]),
        pixel=1 / torch.tensor(info.std).reshape(3, 1, 1),
        mean=torch.tensor(info.mean).reshape(3, 1, 1),
        masks=split.masks(positions),
    )
    return Explained.by(
        scene,
        lambda versions, classes, other: grad_cam(model if other is None else other, LAYER, versions, classes),
    )


def stock(entry: Entry, explained: Explained) -> str:
    """Say what the class does as installed, with its own defaults and the bridge's numbers of steps and samples."""
    import quantus

    what = given(explained, explained.maps)
    masks = {"s_batch": what.s} if entry.masks and what.s is not None else {}
    try:
        with seeded(0), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(quantus, entry.name)(**QUIET, **entry.cost(what))(
                model=explained.scene.engine.model,
                x_batch=what.x,
                y_batch=what.y,
                a_batch=what.a.astype(np.float32),
                explain_func=explainer(explained),
                device="cpu",
                **masks,
            )
    except Exception as error:  # whatever stops a stock metric is what the table shows
        return "; ".join(filter(None, [f"crashes: {type(error).__name__}", entry.fault]))
    return f"runs; {entry.fault}" if entry.fault else "works"


def bridged(entry: Entry, explained: Explained) -> tuple[str, float | None]:
    """Say what the bridge gives, and in how many seconds; no time for a refused metric."""
    if entry.refused:
        return f"refused: {entry.refused}", None
    started = time.perf_counter()
    value = call(entry, explained, maps_for(entry, explained))
    seconds = time.perf_counter() - started
    state = "works" if np.isfinite(value).all() else f"no number for {int(np.isnan(value).sum())} of {IMAGES} images"
    return "; ".join(filter(None, [state, entry.repaired])), seconds


def survey() -> list[Surveyed]:
    """Survey every class of Quantus, in the order of the table."""
    explained = rehearsal()
    return [Surveyed(entry, stock(entry, explained), *bridged(entry, explained)) for entry in ENTRIES]


def markdown(rows: list[Surveyed]) -> list[str]:
    """Return the table of the docs, line by line."""
    cells = [[escape_bars(cell) for cell in line] for line in (HEADER, *(row.cells() for row in rows))]
    return markdown_lines(cells[0], cells[1:])
