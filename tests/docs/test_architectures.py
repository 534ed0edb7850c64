"""The page on networks and explainers is complete; some of its cells are computed again, all in the long suite."""

from __future__ import annotations

import re

import pytest

from docs.generate.architectures import NETWORKS, PAGE, default_layer, made, outcome
from docs.generate.explainers import explainers
from tests.commands import ROOT

TEXT = (ROOT / "docs" / PAGE).read_text(encoding="utf-8")
COMMAND = "run `python -m docs.generate.architectures docs` and commit what it changes"
QUICK = ("grad-cam", "guided-grad-cam", "lrp", "deep-lift", "attention-rollout", "gradient-attention")
FEW = ("resnet", "swin", "vit")


def cells() -> dict[tuple[str, str], str]:
    """(network, explainer) → "yes" or the words of the refusal, as the committed page has them."""
    reasons = dict(re.findall(r"^(\d+)\. (.*)\.$", TEXT, re.MULTILINE))
    lines = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    titles = {one.title: key for key, one in NETWORKS.items()}
    header = [titles[title] for title in lines[0][1:]]
    found = {}
    for name, *row in lines[1:]:
        if named := re.match(r"\[`(.*)`\]\(explainers/", name):
            told = ["yes" if cell == "yes" else reasons[cell] for cell in row]
            found |= {(key, named[1]): text for key, text in zip(header, told, strict=True)}
    return found


def layers() -> dict[str, str]:
    part = TEXT.partition("## The layer explained by default")[2]
    named = dict(re.findall(r"^\| ([^|]*) \| `(.*)` \|$", part, re.MULTILINE))
    return {key: named[one.title] for key, one in NETWORKS.items()}


def test_every_explainer_and_every_network_has_a_cell() -> None:
    assert set(cells()) == {(key, name) for key in NETWORKS for name in explainers()}, COMMAND
    assert len(NETWORKS) >= 12


@pytest.mark.parametrize(
    "key", [*FEW, *(pytest.param(key, marks=pytest.mark.slow) for key in NETWORKS if key not in FEW)]
)
def test_cells_are_what_is_computed_now(key: str) -> None:
    model, page = made(key), cells()
    layer = default_layer(model)
    assert layer == layers()[key], COMMAND
    for name in QUICK if key in FEW else explainers():
        assert outcome(model, layer, name) == page[key, name], f"{name}: {COMMAND}"
