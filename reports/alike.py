"""Two figures ask whether explainers say the same of the same images: by their maps, and by their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xeval.reports.agreement import Matrix, between_maps, between_scores
from xeval.reports.captions import checkpoint, place
from xeval.reports.collect import Group
from xeval.reports.drawing import COLUMN, PAGE, Figure, axes, finish
from xeval.reports.gallery import Pools, shown_runs
from xeval.reports.overview import heat
from xeval.reports.rows import Block
from xeval.reports.summary import Measure


def alike_in_maps(group: Group, method: str, pools: Pools) -> Figure | None:
    """Draw which explainers and controls rank the pixels of the same images alike."""
    pool = pools.get(method)
    if pool is None or len(pool.rows) < 2:
        return None
    caption = (
        f"Spearman's rank correlation of two maps over the pixels of an image, averaged over {len(pool.ids)} images, "
        f"{place(group)}, {checkpoint(shown_runs(group)[method])}. 1 = the same order of pixels, "
        "0 = unrelated, −1 = reversed; a dash where a map is constant. Two explainers that agree may both be wrong: "
        "read it with the controls. Random controls have their first draw."
    )
    return _alike(group, "maps-agreement", "Agreement between maps", between_maps(pool), list(pool.rows), caption)


def alike_in_scores(block: Block, measures: Sequence[Measure]) -> Figure | None:
    """Draw which explainers do well on the same images, by the first primary column; None where images are unknown."""
    measure = next((one for one in measures if one.each and one.direction is not None), None)
    if measure is None or len(block.lines) < 2:
        return None
    found = between_scores(block.lines, measure)
    if not np.isfinite(found[~np.eye(len(found), dtype=bool)]).any():
        return None
    average = "" if len(block.runs) == 1 else ", averaged over checkpoints"
    caption = (
        f"Kendall's τ between the explainers' values of {measure.key} of single images, {block.place}{average}: 1 = "
        "they do well on the same images, 0 = unrelated, −1 = on opposite ones; a dash where it is undefined."
    )
    return _alike(block.group, block.slug("scores-agreement"), "Agreement between scores", found, block.labels, caption)


def _alike(group: Group, name: str, title: str, table: Matrix, labels: Sequence[str], caption: str) -> Figure:
    side = 0.9 + 0.31 * len(labels)
    figure, panes = axes(1, 1, COLUMN if side <= COLUMN else PAGE, max(2.6, side))
    heat(panes[0], table, labels, "")
    return finish(figure, group, name, title, caption)
