"""The methods paragraph says what was done, and every reference it needs is there and well formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reports.synthetic import scores, write_run, write_study
from xeval.explainers import EXPLAINERS
from xeval.metrics import METRICS
from xeval.reports.compare import compare
from xeval.reports.methods import FILE, keys_of, references

pytestmark = pytest.mark.usefixtures("no_figures")


def test_everything_the_registry_cites_has_an_entry() -> None:
    cited = [metric.citation for _, metric in METRICS.items()]
    cited += [explainer.citation for _, explainer in EXPLAINERS.items()]
    assert [text for text in cited if not keys_of(text)] == []
    assert keys_of("Bach et al., PLOS ONE 2015; Montavon et al., 2019") == ["bach2015lrp", "montavon2019lrp"]
    assert keys_of("Shrikumar et al., ICML 2017 (rescale rule)") == ["shrikumar2017deeplift"]
    assert keys_of("Nobody, 1900") == []


def test_the_file_is_well_formed() -> None:
    text = FILE.read_text()
    assert text.count("@") == len(references()) == len({key for key, _ in references().values()})
    for _, entry in references().values():
        assert entry.count("{") == entry.count("}")
        assert all(re.search(rf"\b{field} = \{{", entry) for field in ("title", "author", "year"))
        assert "cited" not in entry


def test_the_paragraph_says_what_was_done(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4, 0.5), "excon": (0.1, 0.2, 0.3)}, artifacts=False)
    out = compare(runs, tmp_path / "out").out
    text = (out / "methods.tex").read_text()
    assert "protocol xeval (version 1" in text
    assert "resnet-small networks trained with supcon (3 seeds) and excon (3 seeds)" in text
    assert r"drop~\cite{yeh2019infidelity}" in text
    assert "with fewer than 5 seeds nothing is tested" in text
    page = (out / "report.html").read_text()
    assert "supcon (3 seeds) and excon (3 seeds)" in page
    assert r"~\cite{yeh2019infidelity}" in page
    assert "yeh2019infidelity" in (out / "references.bib").read_text()


def test_the_paragraph_says_what_was_trained_in_other_numbers_than_float32(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4), "excon": (0.1, 0.2)}, artifacts=False)
    assert "passes that trained" not in (compare(runs, tmp_path / "before").out / "methods.tex").read_text()
    for card in runs.glob("digits-excon-*/run.json"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "recipe": {"precision": "bfloat16"}}))
    text = (compare(runs, tmp_path / "out").out / "methods.tex").read_text()
    assert "The passes that trained excon were computed in bfloat16, losses and statistics in float32." in text


def test_five_seeds_bring_the_declared_tests(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4, 0.5, 0.6, 0.7), "excon": (0.1, 0.2, 0.3, 0.2, 0.1)}, artifacts=False)
    text = (compare(runs, tmp_path / "out").out / "methods.tex").read_text()
    assert "Differences to supcon carry" in text
    assert (
        r"(drop.mag@0.45, infidelity.skill and deletion.gain) are adjusted by Holm's method ($\alpha$ = 0.05)" in text
    )


def test_it_compiles_with_hostile_names(runs: Path, tmp_path: Path) -> None:
    found = scores(r"\input{/etc/passwd}$x_1^2$ [yeh2019infidelity] & %", 0, 0.3)
    found["explained"]["layer"] = r"\write18{id}"
    write_run(runs, found, folder="hostile")
    out = compare(runs, tmp_path / "out").out
    text = (out / "methods.tex").read_text()
    assert r"\input" not in text
    assert r"\write" not in text
    if (latex := shutil.which("pdflatex")) is None:
        return  # the escaping itself is proved in test_text.py
    (out / "paper.tex").write_text(rf"\documentclass{{article}}\begin{{document}}{text}\end{{document}}")
    command = [latex, "-no-shell-escape", "-halt-on-error", "-interaction=batchmode", "paper.tex"]
    assert subprocess.run(command, cwd=out, check=False, capture_output=True).returncode == 0
