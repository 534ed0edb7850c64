"""results.json holds everything that the page shows, with the original names.

Numbers have seven significant digits: what the single precision of the networks holds, and half the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xeval.reports.against import SCHEMA, rounded
from xeval.reports.captions import place
from xeval.reports.collect import Collection, Group
from xeval.reports.contrasts import Contrast
from xeval.reports.page import Section
from xeval.reports.provenance import provenance, status
from xeval.reports.summary import cell, column_measure, controls, gain_measure, model_measures
from xeval.statistics.intervals import SEEDS_FOR_P


def results_of(collection: Collection, sections: Sequence[Section], files: Sequence[str]) -> dict[str, Any]:
    """Return the content of results.json."""
    found = {
        "schema": SCHEMA,
        "files": sorted(files),
        "status": [[what, count] for what, count, _ in status(collection)],
        "excluded": [{"path": item.path, "reason": item.reason, "remedy": item.remedy} for item in collection.excluded],
        "sections": [_section_results(section) for section in sections],
    }
    return {key: rounded(value) for key, value in found.items()}


def _section_results(section: Section) -> dict[str, Any]:
    group = section.group
    data = group.first.scores.dataset
    return {
        "dataset": group.dataset,
        "recipe": group.recipe,
        "arch": group.arch,
        "place": place(group),
        "reference": section.reference,
        "rows": section.rows,
        "n": data.n,
        "manifest": data.manifest,
        "protocol": group.first.scores.protocol.model_dump(mode="json"),
        "verdict": section.verdict.text,
        "ordering": section.verdict.ordering,
        "threats": list(section.verdict.threats),
        "declaration": {
            "date": section.declaration.date,
            "primary": list(section.declaration.primary),
            "alpha": section.declaration.alpha,
            "changes": list(section.declaration.changes),
        },
        "contrasts": [_contrast_results(block, found) for (block, *_), found in section.analysis.contrasts.items()],
        "gallery": {"selection": section.gallery.selection, "images": section.gallery.ids} if section.gallery else None,
        "marks_from_seeds": SEEDS_FOR_P,
        "methods": {method: _method_results(group, method) for method in group.methods},
        "runs": [provenance(run) for run in group.runs],
    }


def _contrast_results(block: str, found: Contrast) -> dict[str, Any]:
    estimate, share, common = found.estimate, found.estimate.share, found.common
    row_mean, reference_mean = common.means if common and common.n else (None, None)
    return {
        "block": block,
        "row": found.label,
        "reference": found.reference,
        "column": found.measure.key,
        "family": "primary" if found.primary else "exploratory",
        "difference": None if math.isnan(estimate.value) else estimate.value,
        "interval": list(estimate.interval) if estimate.interval else None,
        "df": estimate.df,
        "p": estimate.p,
        "p_adjusted": found.adjusted,
        "p_permutation": found.check.p if found.check else None,
        "share_of_seeds": share.seeds if share else None,
        "hedges_g": found.g,
        "a12": found.a12.value if found.a12 else None,
        "images_better": found.images.better if found.images else None,
        "seeds": list(estimate.seeds),
        "n": estimate.images,
        "n_of_rows": common.of if common else None,
        "row_mean": row_mean,
        "reference_mean": reference_mean,
        "note": estimate.note,
        "too_few": estimate.short,
    }


def _method_results(group: Group, method: str) -> dict[str, Any]:
    runs = group.methods[method]
    measures = [column_measure(group, key) for key in group.first.scores.columns]
    explainers = {}
    for explainer in group.first.scores.explainers:
        cells = {measure.key: cell(runs, measure, explainer) for measure in measures}
        floors = [c for c in ("random", "random-cam") if c in controls(group) and explainer not in controls(group)]
        gains = [gain_measure(measure, floor) for measure in measures if measure.direction for floor in floors]
        cells |= {measure.key: cell(runs, measure, explainer) for measure in gains}
        explainers[explainer] = {key: _cell_results(found) for key, found in cells.items()}
    model = {measure.key: _cell_results(cell(runs, measure, "")) for measure in model_measures()}
    return {"seeds": [run.seed for run in runs], "model": model, "explainers": explainers}


def _cell_results(found: Any) -> dict[str, Any]:
    return {"mean": found.mean, "std": found.std, "n": found.n, "values": list(found.values)}
