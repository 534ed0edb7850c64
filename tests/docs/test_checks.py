"""docs/what-is-checked.md: rows name checks, messages and tests that exist; no check of a guarded file is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docs.generate.checked import ROWS, Checked, checks_page, require_proof, row_of, said, sections, unlisted
from tests.commands import ROOT

ALL = [row for rows in sections().values() for row in rows]
GUARDED = (
    "models.answers",
    "scoring.loader",
    "scoring.module",
    "scoring.similarity",
    "models.layers",
    "models.layout",
    "models.reading",
    "explainers.cam",
    "explainers.graph",
    "explainers.gradients",
    "explainers.lrp",
)
"""What foreign models and loaders meet: every error of these files has a row."""
ADD = f"add a line to {ROWS.relative_to(ROOT)}, then run `make docs`"

TRUE = Checked(
    "rows of the answer",
    "before scoring",
    "models.answers:outputs_of",
    "rows of numbers",
    "outside/test_outputs.py::test_other_answers_are_refused_with_the_reason",
)


@pytest.mark.parametrize("row", ALL, ids=lambda row: f"{row.place} {row.words}")
def test_every_row_names_what_exists(row: Checked) -> None:
    assert said(row)
    require_proof(row)


def test_rows_are_told_apart() -> None:
    assert len(ALL) > 100
    assert len({(row.place, row.words) for row in ALL}) == len(ALL)


@pytest.mark.parametrize("module", GUARDED)
def test_no_check_of_a_guarded_file_is_left_out(module: str) -> None:
    assert unlisted(module, ALL) == [], ADD


def test_the_page_says_the_whole_message_and_the_code_of_its_kind() -> None:
    page = checks_page()
    assert TRUE in ALL
    assert said(TRUE) == "exit 2: “the model answers … images with … rows of numbers”"
    (line,) = [line for line in page.splitlines() if line.startswith("| rows of the answer |")]
    code, test = (
        "[xeval/models/answers.py](../xeval/models/answers.py)",
        "test_other_answers_are_refused_with_the_reason",
    )
    proof = f"[`{test}`](../tests/outside/test_outputs.py)"
    assert line == f"| {TRUE.subject} | {TRUE.when} | {said(TRUE)} | {code} | {proof} |"
    assert sum(line.startswith("| ") for line in page.splitlines()) == len(ALL) + 2 * len(sections())


@pytest.mark.parametrize(
    ("place", "words", "ending", "expected"),
    [
        ("scoring.loader:class_numbers", "is none of", "", "exit 3: “the label … is none of … classes”"),
        ("data.images:opened", "is a 0-byte file", "", "exit 3: “is a 0-byte file”"),  # by a helper of the module
        ("checkpoints.load:require_head", "no linear head", "", "exit 4: “… has no linear head”"),  # two kinds in one
        ("checkpoints.load:require_head", " outputs, ", "", "exit 3: “the head has … outputs, … has … classes”"),
        ("data.archive:require_name", "a path to a parent", "", "exit 4: “a path to a parent”"),  # not in the call
        ("training.recipe:_explain", "is unknown", "", "exit 2: “… is unknown”"),
        ("scoring.module:_remarks", "bytes", "a note", "a note: “the images are bytes and were divided by 255”"),
    ],
)
def test_messages_and_codes_come_from_the_code(place: str, words: str, ending: str, expected: str) -> None:
    assert said(replace(TRUE, place=place, words=words, ending=ending)) == expected


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"place": "models.answers:_answers"}, "_answers does not exist"),
        ({"place": "scoring.replies:_answer"}, "scoring.replies:_answer does not exist"),
        ({"words": "has two outputs"}, "does not say 'has two outputs'"),
        ({"place": "scoring.module:_remarks", "words": "divided by 255"}, "does not say 'divided by 255' in an error"),
    ],
)
def test_checks_that_do_not_exist_are_found(changes: dict[str, str], told: str) -> None:
    with pytest.raises(LookupError, match=told):
        said(replace(TRUE, **changes))


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("outside/test_answers.py::test_other_answers", "test_other_answers does not exist"),
        ("outside/test_replies.py::test_other_answers_are_refused", "does not exist"),
        ("outside/test_answers.py::test_types_and_modes", "does not quote 'rows of numbers'"),
    ],
)
def test_proofs_that_do_not_exist_are_found(test: str, told: str) -> None:
    with pytest.raises(LookupError, match=told):
        require_proof(replace(TRUE, test=test))


def test_a_check_without_a_row_is_found() -> None:
    rest = [row for row in ALL if row != TRUE]
    assert unlisted("models.answers", rest) == [f"{TRUE.place}: the model answers … images with … rows of numbers"]


@pytest.mark.parametrize("line", ["a | b | c | d", "a | b | c | d | e | f | g"])
def test_lines_that_are_no_rows_are_found(line: str) -> None:
    with pytest.raises(ValueError, match="parts"):
        row_of(line)
