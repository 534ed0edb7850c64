from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xeval.reports.text import clean, latex, markdown, number, plot_label, slug, spreadsheet


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "link"),
        ("a\x9bb\x00c\x7f", "abc"),
        ("a\u202eb", "a\\u202eb"),
        ("tab\tand\nline", "tab and line"),
        ("\ud800", ""),
    ],
)
def test_clean(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_clean_cuts_long_names() -> None:
    assert clean("x" * 200, 10) == "x" * 9 + "…"


@given(st.text())
@pytest.mark.fault("R4")
def test_clean_leaves_no_control_character(raw: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0x202A <= ord(c) <= 0x202E for c in clean(raw))


def test_latex_prints_every_special_character() -> None:
    assert latex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert latex("50% & #1_a^b~c$d$") == r"50\% \& \#1\_a\textasciicircum{}b\textasciitilde{}c\$d\$"
    assert latex("a ± b ‡") == r"a $\pm$ b $\ddagger$"


@given(st.text(alphabet=string.printable))
@pytest.mark.fault("R2")
def test_latex_has_balanced_braces_and_no_bare_specials(raw: str) -> None:
    depth, escaped = 0, False
    for char in latex(raw):
        if escaped:
            escaped = False
            continue
        escaped = char == "\\"
        depth += (char == "{") - (char == "}")
        assert depth >= 0
        assert char not in "&#%^~_"
    assert depth == 0
    assert not escaped


@pytest.mark.parametrize("raw", ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", "\r=1", "\x1b[0m=1"])
@pytest.mark.fault("R3")
def test_formulas_are_defused(raw: str) -> None:
    assert spreadsheet(raw).startswith("'")


def test_plain_cells_stay_as_they_are() -> None:
    assert spreadsheet("drop.mag@0.45 mean") == "drop.mag@0.45 mean"


def test_markdown_has_no_markup_left() -> None:
    assert markdown("a|b <i>*x*_y_") == r"a\|b \<i\>\*x\*\_y\_"


def test_plot_labels_are_never_hidden() -> None:
    assert plot_label("_secret") == " _secret"


@given(st.text(), st.text())
def test_slugs_are_file_names_and_do_not_collide(a: str, b: str) -> None:
    assert set(slug(a)) <= set(string.ascii_lowercase + string.digits + ".-")
    assert not slug(a).startswith((".", "-"))
    assert (slug(a) == slug(b)) == (a == b)


def test_slugs_keep_plain_names() -> None:
    assert slug("digits", "", "headline") == "digits-headline"
    assert slug("../../etc").startswith("etc-")


def test_numbers() -> None:
    assert number(-0.5, 2) == "−0.50"
    assert number(-0.0001, 2) == "0.00"
