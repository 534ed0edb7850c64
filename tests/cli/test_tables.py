import pytest

from xeval.cli.tables import markdown_table, score_table

SUMMARY = {
    "checkpoint": {"name": "run"},
    "dataset": {"name": "digits", "split": "test", "n": 100, "of": 360, "selection": "stratified sample, seed 0"},
    "model": {"accuracy": 0.5, "p0": 0.4, "ece": 0.1},
    "explained": {"layer": "layer3", "cam_size": [4, 4], "target": "pred"},
    "columns": {"a.x": {"direction": "higher"}, "a.diagnostic": {"direction": None}},
    "explainers": {"cam": {"control": False}, "random": {"control": True}},
    "scores": {
        "cam": {"a.x": {"mean": 0.5, "se": 0.01, "n": 90}, "a.diagnostic": {"mean": 1e-5, "se": None, "n": 100}},
        "random": {"a.x": {"mean": None, "se": None, "n": 0}},
    },
    "conventions": ["what was done"],
    "warnings": ["look here"],
}


def test_the_table_shows_arrows_counts_and_conventions():
    text = score_table(SUMMARY)
    assert "n = 100 of 360 (stratified sample, seed 0)" in text
    assert "a.x ↑" in text
    assert "0.500|90" in text
    assert "—" in text
    assert "· what was done" in text
    assert "warning: look here" in text


def test_markdown_intervals_by_hand():
    lines = markdown_table(SUMMARY).splitlines()
    assert lines[2] == "| explainer | a.x ↑ |"
    assert lines[4] == "| cam | 0.500 ± 0.020 (n = 90) |"
    assert lines[5] == "| *random* | — |"
    assert "diagnostic" not in "".join(lines)


def test_the_published_spread_is_that_of_the_images():
    """A standard deviation per image is √n times a standard error: 0.01 · √90 against 1.96 · 0.01."""
    lines = markdown_table(SUMMARY, "std").splitlines()
    assert "standard deviation of the images" in lines[0]
    assert lines[4] == "| cam | 0.500 ± 0.095 (n = 90) |"


@pytest.mark.parametrize("value", [0.0123, 0.0012, 0.0])
def test_small_numbers_keep_their_digits(value):
    summary = {**SUMMARY, "scores": {"cam": {"a.x": {"mean": value, "se": 0.0, "n": 100}}}}
    assert f"{value:.3g}" in score_table(summary) or f"{value:.3f}" in score_table(summary)
