"""The table of benchmarks/README.md is what benchmarks/results.json says."""

import json

from benchmarks import table
from benchmarks.__main__ import RESULTS, merged

MACHINE = {
    "system": "Linux x86_64",
    "processor": "Example 9000",
    "cpus": 2,
    "threads": 1,
    "python": "3.11.7",
    "versions": {"torch": "2.14.1", "quantus": "0.6.0"},
}


def row(**changes):
    return {
        "claim": "a claim",
        "unit": "×",
        "value": 2.5678,
        "spread": [2.4, 2.71],
        "target": "≥ 2.5",
        "passes": {"peer": 2094, "own": 928},
        "checked": "everything",
        "note": "the counted passes alone give 2.26×",
        "measurements": {},
        "met": True,
        **changes,
    }


RESULT = {
    "benchmark": "suite",
    "arguments": [],
    "machine": MACHINE,
    "rows": [
        row(),
        row(claim="bytes | of a page", unit="MB", value=9.0, spread=[9.0, 9.0], target="≤ 8", passes={}, met=False),
        row(claim="growth", unit="exponent", value=0.98, spread=[0.97, 0.99], target=None, met=None, note=""),
    ],
}
GOLDEN = """\
Measured on Example 9000, 2 CPUs, 1 threads, Linux x86_64; Python 3.11.7, torch 2.14.1, quantus 0.6.0.

| claim | target | measured (median, spread) | passes | met | what it depends on |
|---|---|---|---|---|---|
| a claim | ≥ 2.5× | 2.57× (2.4–2.71) | peer 2,094, own 928 | yes | the counted passes alone give 2.26× |
| bytes \\| of a page | ≤ 8 MB | 9 MB | – | **no** | the counted passes alone give 2.26× |
| growth | – | 0.98 exponent (0.97–0.99) | peer 2,094, own 928 | – |  |"""


def test_golden_table():
    assert table.table([RESULT]) == GOLDEN


def test_two_machines_are_named_twice_and_one_once():
    other = {**RESULT, "machine": {**MACHINE, "gpu": "Example GPU"}}
    assert table.machines([RESULT, RESULT, other]).count("Measured on") == 2
    assert "Example GPU" in table.machines([other])


def test_only_the_part_between_the_marks_changes():
    text = f"# Title\n\nbefore\n\n{table.START}\nold\n{table.STOP}\n\nafter\n"
    written = table.page(text, [RESULT])
    assert written == f"# Title\n\nbefore\n\n{table.START}\n{GOLDEN}\n{table.STOP}\n\nafter\n"
    assert table.page(written, [RESULT]) == written


def test_the_page_is_current():
    page = table.PAGE.read_text()
    assert page.count(table.START) == page.count(table.STOP) == 1
    if RESULTS.is_file():
        assert table.page(page, json.loads(RESULTS.read_text())) == page


def test_new_results_take_the_place_of_old_ones():
    def answer(name, *arguments, value):
        return {"benchmark": name, "arguments": list(arguments), "rows": [value]}

    old = [answer("store", value=1), answer("suite", value=1)]
    new = [answer("suite", "--explainers", "6", value=2), answer("store", value=2)]
    found = merged(old, new)
    assert [(one["benchmark"], one["arguments"], one["rows"]) for one in found] == [
        ("suite", [], [1]),
        ("suite", ["--explainers", "6"], [2]),
        ("store", [], [2]),
    ]
