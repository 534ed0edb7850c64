"""Writes a page for every registered explainer, and one page for all controls."""

from __future__ import annotations

import inspect
import re

from docs.generate.shared import bibtex, footer, parity, tests
from docs.generate.text import described, page, paragraphs, refusals, section
from xeval.explainers import CONTROLS, EXPLAINERS, Explainer


def explainers() -> dict[str, Explainer]:
    """Return the explainers of this package, without those of plug-ins."""
    return {name: one for name, one in EXPLAINERS.items() if one.explain.__module__.startswith("xeval.")}


def explainer_page(one: Explainer) -> str:
    """Return the page of one explainer."""
    return page(
        f"`{one.name}`",
        *described(one.explain),
        section("Map", "\n".join(f"- {name}: {what}" for name, what in _facts(one))),
        section("Refused", *_refused(one)),
        section("Checked", f"Tests: {tests(one.explain)}.", parity({one.name})),
        section("Citation", *bibtex(one.citation)),
        footer(one.explain),
    )


def _parameters(one: Explainer) -> list[str]:
    return list(inspect.signature(one.explain).parameters)


def looks_at_layer(one: Explainer) -> bool:
    """Return whether the explainer reads the layer it is given; its code marks ignored parameters with ``_``."""
    return not _parameters(one)[1].startswith("_")


def _reads(one: Explainer) -> str:
    if looks_at_layer(one):
        return "the activations of one layer (`--layer`)"
    return f"{'the weights of attention' if _on_patches(one) else 'the image'}; `--layer` is ignored"


def _on_patches(one: Explainer) -> bool:
    """Return whether the map lies on the grid of patches, by the words of the docstring."""
    return "on the grid of patches" in " ".join((inspect.getdoc(one.explain) or "").split())


def _facts(one: Explainer) -> list[tuple[str, str]]:
    classes = not _parameters(one)[3].startswith("_")
    meaning = {
        "gradient": "`gradient`: change of the score per unit of input",
        "location": "`location`: how much a place matters",
    }
    return [
        ("unit", meaning[one.units]),
        ("reads", _reads(one)),
        ("grid", _grid(one)),
        ("explains", "the class that is asked for" if classes else "the image: the map is the same for every class"),
    ]


def _grid(one: Explainer) -> str:
    """Return the size of the map: the layer's or the image's, unless the docstring says another one."""
    doc = inspect.getdoc(one.explain) or ""
    if _on_patches(one):
        return "the patches', upsampled for scoring"
    if looks_at_layer(one) and "N×1×H×W" not in doc:
        return "the layer's own, upsampled for scoring"
    cells = re.search(r"N×1×(\d+×\d+)", doc)
    return f"{cells[1]} cells, upsampled for scoring" if cells else "the image's"


def _refused(one: Explainer) -> list[str]:
    found = [f"{text[0].upper()}{text[1:].rstrip('.')} (exit code 2)." for text in refusals(one.explain)]
    if looks_at_layer(one):
        found.append(
            "Layers that give neither a feature map nor tokens of a known grid (exit code 2): name another with "
            "`--layer`."
        )
    return found or ["No network: the logits, or their gradient, are all it needs."]


def controls_page() -> str:
    """Return one page with all controls."""
    blocks = []
    for name, about in CONTROLS.items():
        facts = [f"The scores of {about.draws} draws are averaged."] if about.draws > 1 else []
        facts += ["One set of passes serves keep and deletion curves."] if about.symmetric else []
        text = paragraphs(about.draw) if about.draw else [about.about]
        blocks.append(section(f"`{name}`", *text, " ".join(facts)))
    intro = (
        "Grey rows of every table, never ranked: what a map that knows nothing, or the wrong thing, gets on the same "
        "checkpoint with the same perturbations. A score means something where the explainer beats them. The reference "
        "is the first explainer that is scored. Draws depend on the image and the number of the draw alone, and are "
        "new for every perturbed version of an image."
    )
    return page("Controls", intro, *blocks)
