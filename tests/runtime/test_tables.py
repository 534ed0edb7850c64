"""Markdown tables: rules below the header, bars that do not end a cell."""

from xeval.runtime.tables import escape_bars, markdown_lines, markdown_row


def test_a_plain_table() -> None:
    assert markdown_lines(("a", "b"), [("1", ""), ("2", "x")]) == [
        "| a | b |",
        "| --- | --- |",
        "| 1 |  |",
        "| 2 | x |",
    ]


def test_numbers_stand_at_the_right() -> None:
    assert markdown_lines(["name", "n", "m"], [], numbers=True)[1] == "| :--- | ---: | ---: |"


def test_bars_are_escaped_only_where_asked() -> None:
    assert escape_bars("|a| b") == r"\|a\| b"
    assert markdown_row(["a|b"]) == "| a|b |"
