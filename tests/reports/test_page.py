from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.reports.synthetic import scores, write_artifacts, write_run, write_study
from xeval.reports.compare import Comparison, compare
from xeval.reports.page import script_json

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '=HYPERLINK("http://evil.test")',
    "\x1b[31m\u202e$\\frac{1}{0}$",
    "\\input{/etc/passwd}",
    "{{ 7 * 7 }}",
    "' style='color:red' onclick='alert(1)",
]


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.open = ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = f"{tag}:{dict(attrs).get('type') or ''}" if tag in {"script", "style"} else ""

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open:
            self.blocks[self.open] = self.blocks.get(self.open, "") + data
        else:
            self.text += data

    def attributes(self) -> Iterator[tuple[str, str, str]]:
        for tag, attrs in self.tags:
            for name, value in attrs.items():
                yield tag, name, value or ""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Every name that another person may write is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(HOSTILE):
        found = scores(name, 0, 0.1 + number / 20)
        found["checkpoint"] |= {"name": name, "recipe": HOSTILE[0], "arch": name, "sha256": f"{number:064d}"}
        found["dataset"] |= {"name": HOSTILE[1], "selection": HOSTILE[3], "classes": HOSTILE}
        found["explained"]["layer"] = name
        found["warnings"] = [name]
        found["conventions"] = HOSTILE
        found["scores"]["grad-cam"]["ssim.value"] |= {"n": 3, "undefined": {name: 357}}
        found["provenance"] = {"xeval": name, "torch": name, "commit": name}
        write_artifacts(write_run(root / "runs", found, folder=str(number)), 0, HOSTILE[:5])
    return compare(root / "runs", root / "report")


def test_policy_allows_exactly_the_two_blocks_of_the_page(study: Comparison) -> None:
    page = Reader(study.page.read_text())
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(page.blocks['style:'])}'; "
        f"script-src 'sha256-{digest(page.blocks['script:'])}'; base-uri 'none'; form-action 'none'"
    )
    assert Counter(tag for tag, _ in page.tags)["style"] == 1
    assert Counter(tag for tag, _ in page.tags)["script"] == 2


@pytest.mark.parametrize("which", ["study", "hostile"])
@pytest.mark.fault("R1", "R7")
def test_nothing_inline_and_nothing_external(which: str, request: pytest.FixtureRequest) -> None:
    page = Reader(request.getfixturevalue(which).page.read_text())
    for tag, name, value in page.attributes():
        assert name != "style"
        assert not name.startswith("on")
        if name in {"src", "href", "action", "data", "srcset", "xlink:href"}:
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert {tag for tag, _ in page.tags} & {"img", "iframe", "object", "embed", "base", "form"} == set()
    assert "@import" not in page.blocks["style:"]
    assert "url(" not in page.blocks["style:"]


def test_ids_are_unique_and_every_anchor_has_a_target(study: Comparison) -> None:
    page = Reader(study.page.read_text())
    ids = [value for _, name, value in page.attributes() if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in page.attributes() if name == "href" and value.startswith("#")}
    assert targets <= set(ids)


def test_results_inside_the_page_are_the_results_beside_it(study: Comparison) -> None:
    page = Reader(study.page.read_text())
    assert json.loads(page.blocks["script:application/json"]) == study.results


def test_tables_carry_captions_scopes_and_sort_buttons(study: Comparison) -> None:
    text = study.page.read_text()
    page = Reader(text)
    counts = Counter(tag for tag, _ in page.tags)
    assert counts["caption"] == len(study.tables)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    # one block of controls in five tables, one for each primary column in the table of controls
    assert text.count('<tbody class="controls">') == 5 + 3
    for table in study.tables:
        assert f'id="t-{table.slug}"' in text
        assert f'id="x-{table.slug}-latex"' in text


def test_copied_latex_is_the_latex_file(study: Comparison) -> None:
    text = study.page.read_text()
    found = re.search(r'<template id="x-digits-headline-latex">(.*?)</template>', text, re.DOTALL)
    assert found is not None
    assert Reader(found[1]).text == (study.out / "tables/digits-headline.tex").read_text()


@pytest.mark.fault("R1", "D17")
def test_hostile_names_are_shown_as_text(hostile: Comparison) -> None:
    text = hostile.page.read_text()
    page = Reader(text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "alert(1)" not in page.blocks["script:"]


@pytest.mark.fault("R2", "R3")
def test_hostile_names_make_plain_file_names_and_inert_files(hostile: Comparison) -> None:
    for path in hostile.out.rglob("*"):
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", path.name)
    for path in (hostile.out / "tables").glob("*.tex"):
        text = path.read_text()
        assert r"\input" not in text
        assert r"\frac" not in text
        assert text.count(r"\begin") == text.count(r"\end")
    assert not any(ord(c) < 32 and c != "\n" for c in hostile.terminal_table + hostile.verdict)
    assert hostile.results["sections"][0]["dataset"] == HOSTILE[1]


def test_status_strip_links_the_excluded_runs(runs: Path, tmp_path: Path, no_figures: None) -> None:
    write_run(runs, scores("ce", 0, 0.3))
    (write_run(runs, scores("ce", 1, 0.3)) / "scores.json").unlink()
    text = Reader(compare(runs, tmp_path / "out").page.read_text()).text
    assert "trained, not scored" in text
    assert f"xeval score {runs.name}/digits-ce-s1" in text
    assert str(runs) not in text


def test_errors_in_cells_are_counted_aloud(runs: Path, tmp_path: Path, no_figures: None) -> None:
    found = scores("ce", 0, 0.3)
    found["scores"]["grad-cam"]["ssim.value"] |= {"n": 359, "errors": {"not finite": 1}}
    write_run(runs, found)
    made = compare(runs, tmp_path / "out")
    assert ["cells with errors", "1"] in made.results["status"]
    assert "error: not finite" in Reader(made.page.read_text()).text


@pytest.mark.parametrize("value", ["</script>", "<!--", "\u2028\u2029", "&lt;", {"a": [1.5, None]}])
def test_script_json_round_trips_and_cannot_end_the_element(value: Any) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_script_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


@pytest.mark.fault("R6")
def test_page_stays_far_below_the_size_limit(tmp_path: Path) -> None:
    drops = dict.fromkeys(("ce", "triplet", "simclr", "supcon-ori", "supcon", "excon", "exconb"), (0.1, 0.2, 0.3))
    made = compare(write_study(tmp_path / "runs", drops), tmp_path / "out")
    assert made.page.stat().st_size < 2_000_000
