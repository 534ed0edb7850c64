from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.reports.synthetic import PRIMARY, scores, write_artifacts, write_run, write_study
from xeval.errors import DataError
from xeval.reports.collect import collect
from xeval.reports.compare import Comparison
from xeval.reports.embedding import panels
from xeval.reports.figures import figures
from xeval.reports.svg import inline

NAMES = ["curves", "seeds", "forest", "ranks", "agreement", "convergence", "tsne", "reliability"]


def test_every_figure_exists_as_svg_and_pdf(study: Comparison) -> None:
    made = {f.slug.removeprefix("digits-"): f for f in study.sections[0].figures}
    assert list(made) == NAMES
    for name in NAMES:
        assert (study.out / f"figures/digits-{name}.svg").read_text().startswith("<?xml")
        assert (study.out / f"figures/digits-{name}.pdf").read_bytes().startswith(b"%PDF")
        ET.fromstring(made[name].embedded)


def test_figures_carry_no_date_and_no_style_attribute(study: Comparison) -> None:
    for figure in study.sections[0].figures:
        assert b"CreationDate" not in figure.pdf
        assert "<dc:date>" not in figure.svg
        assert "style=" not in figure.embedded
        assert "<style" not in figure.embedded
        assert "http" not in figure.embedded.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_svg_text_stays_text(study: Comparison) -> None:
    assert ">excon</text>" in re.sub(r"\s*\n\s*", "", study.sections[0].figures[1].embedded)


def test_stability_numbers_stand_in_the_legend(study: Comparison) -> None:
    # planted: every epoch's values are 0.01 apart between neighbouring seeds
    assert "supcon (0.0100)" in next(f for f in study.sections[0].figures if f.slug == "digits-convergence").embedded


def test_no_data_no_figure(runs: Path) -> None:
    found = scores("ce", 0, 0.3) | {"curves": {}, "reliability": {}}
    (write_run(runs, found) / "history.csv").unlink()
    assert [f.slug for f in figures(collect(runs).groups[0], PRIMARY)] == ["digits-seeds"]


def test_names_are_printed_verbatim(runs: Path) -> None:
    write_study(runs, {"$\\frac$": (0.1, 0.2), "_hidden": (0.2, 0.3), "<b>&": (0.3, 0.4)})
    text = "".join(f.embedded for f in figures(collect(runs).groups[0], PRIMARY))
    assert "$\\frac$" in text
    assert "_hidden" in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text


def test_panels_take_the_smallest_shared_seed(runs: Path) -> None:
    write_study(runs, {"ce": (0.1, 0.2), "supcon": (0.2, 0.3)})
    (runs / "digits-ce-s0" / "scores.json").unlink()
    found = panels(collect(runs).groups[0])
    assert [(panel.method, panel.seed) for panel in found] == [("ce", 1), ("supcon", 1)]
    assert found[0].points.shape == (120, 2)
    assert found[0].masked.sum() == 60
    assert found[0].numbers["separation_ratio"] == pytest.approx(0.3)


def test_panels_of_different_images_are_refused(runs: Path) -> None:
    write_study(runs, {"ce": (0.1,), "supcon": (0.2,)})
    path = runs / "digits-ce-s0" / "artifacts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_ids": ["other"]}))
    with pytest.raises(DataError, match="different images"):
        panels(collect(runs).groups[0])


def test_no_panels_where_a_method_has_no_embedding(runs: Path) -> None:
    write_study(runs, {"ce": (0.1,), "supcon": (0.2,)})
    (runs / "digits-ce-s0" / "artifacts.json").unlink()
    assert panels(collect(runs).groups[0]) == []


@pytest.mark.filterwarnings("error")
def test_thirty_methods_leave_room_for_the_axes(runs: Path) -> None:
    write_study(runs, {f"method-number-{n:02}": (0.1 + n / 50, 0.2 + n / 50) for n in range(30)})
    found = collect(runs).groups[0]
    assert {f.slug.removeprefix("digits-") for f in figures(found, PRIMARY)} >= {"curves", "seeds", "convergence"}


@pytest.mark.parametrize("damage", ["bytes", "classes"])
def test_damaged_embeddings_are_an_error(runs: Path, damage: str) -> None:
    run = write_run(runs, scores("ce", 0, 0.3))
    write_artifacts(run, 0)
    if damage == "bytes":
        (run / "artifacts.safetensors").write_bytes(b"not a tensor file")
    else:
        path = run / "artifacts.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["only one"]}))
    with pytest.raises(DataError, match=r"artifacts\.safetensors"):
        panels(collect(runs).groups[0])


SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="1pt" height="1pt">
<defs><style type="text/css">*{stroke-linejoin: round}</style><path id="m1"/><clipPath id="c1"><rect/></clipPath></defs>
<g id="g1" style="fill: #ff0000; opacity: 0.5; behavior: url(x)" clip-path="url(#c1)"><use xlink:href="#m1"/>
<text style="font: bold 8px 'DejaVu Sans', sans-serif; text-anchor: middle">a</text></g></svg>"""


def test_inline_moves_styles_into_attributes_and_renames_the_ids_in_use() -> None:
    root = ET.fromstring(inline(SVG, "fig", "Title", "What <it> shows"))
    svg = "{http://www.w3.org/2000/svg}"
    group, text = root.find(f"{svg}g"), root.find(f".//{svg}text")
    assert group is not None
    assert text is not None
    assert group.attrib == {"fill": "#ff0000", "opacity": "0.5", "clip-path": "url(#fig-1)"}
    assert root.find(f".//{svg}use").attrib == {"href": "#fig-0"}  # type: ignore[union-attr]
    assert text.attrib == {
        "font-weight": "bold", "font-size": "8px", "font-family": "'DejaVu Sans', sans-serif", "text-anchor": "middle",
    }  # fmt: skip
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "fig-title fig-desc"
    assert [child.text for child in root[:2]] == ["Title", "What <it> shows"]
    assert root.find(f".//{svg}style") is None


NOT_PASSED_ON = {"x", "y", "d", "transform", "clip-path", "opacity", "href", "width", "height", "role", "viewBox"}


def effective(root: ET.Element) -> list[tuple[str, dict[str, str]]]:
    """Every shape with the attributes that hold for it: its own and, where they pass on, those around it."""
    found = []

    def walk(element: ET.Element, around: dict[str, str]) -> None:
        own = {**around, **{name: value for name, value in element.items() if name != "id"}}
        if element.tag.rpartition("}")[2] != "g":
            found.append((element.tag, own))
        for child in element:
            walk(child, {name: value for name, value in own.items() if name not in NOT_PASSED_ON})

    walk(root, {})
    return found


def test_what_is_written_once_at_a_group_holds_for_the_same_shapes(
    study: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = next(f for f in study.sections[0].figures if f.slug == "digits-tsne")
    short = inline(figure.svg, "fig", "Title", "What it shows")
    monkeypatch.setattr("xeval.reports.svg._hoist", lambda _element: None)
    long = inline(figure.svg, "fig", "Title", "What it shows")
    assert effective(ET.fromstring(short)) == effective(ET.fromstring(long))
    assert len(short) < 0.8 * len(long)


def test_every_reference_inside_a_figure_has_its_target(study: Comparison) -> None:
    for figure in study.sections[0].figures:
        wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', figure.embedded))
        ids = re.findall(r' id="([^"]+)"', figure.embedded)
        assert wanted <= set(ids)
        assert len(ids) == len(set(ids))
