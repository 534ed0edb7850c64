"""Rows P and R of the fault matrix: what a comparison refuses, and what a report does with bad names and a bad disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import ROOT
from tests.reports.synthetic import scores, write_images, write_run, write_study
from tests.reports.test_browser import CHROMIUM, QUIET
from tests.reports.test_page import HOSTILE
from xeval.errors import DataError
from xeval.reports.collect import collect
from xeval.reports.compare import compare

KEY = "drop.mag@0.45"


def edited(runs: Path, change: Any) -> Path:
    """A run whose per-image values stand beside a score file that was changed afterwards."""
    found = scores("ce", 0, 0.3)
    found["dataset"].update(n=4, of=4, key="four")
    values = (0.1, 0.2, float("nan"), 0.3)
    for cell in found["scores"]["grad-cam"].values():
        cell.update(mean=float(np.nanmean(values)), n=3)
    change(found)
    run = write_run(runs, found)
    write_images(run, found, (True,) * 4, values)
    return run


@pytest.mark.fault("P4")
def test_other_settings_are_refused_with_the_difference(runs: Path) -> None:
    for seed, fill in enumerate(("mean", "blur")):
        found = scores("ce", seed, 0.3)
        found["protocol"].update(hash=fill, settings={"fill": fill, "metrics": {"drop": {"thresholds": [0.15, 0.3]}}})
        write_run(runs, found)
    with pytest.raises(DataError, match=r"different definitions .*with fill=mean: 1 .*with fill=blur: 1") as caught:
        collect(runs)
    assert "thresholds" not in str(caught.value)


@pytest.mark.fault("P5")
def test_seeds_without_variance_divide_by_nothing(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3,) * 5, "excon": (0.3,) * 5}, artifacts=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = compare(runs, tmp_path / "out")
    drop = json.loads((made.out / "results.json").read_text())["sections"][0]["methods"]["excon"]["explainers"]
    assert drop["grad-cam"][KEY]["std"] == 0
    assert "NaN" not in made.page.read_text()


@pytest.mark.fault("P6")
@pytest.mark.usefixtures("no_figures")
def test_unequal_numbers_of_seeds_stand_in_the_table(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4), "excon": (0.1, 0.2, 0.3)}, artifacts=False)
    made = compare(runs, tmp_path / "out")
    assert {row.label: row.seeds for row in made.tables[0].rows if not row.control} == {"supcon": 2, "excon": 3}
    assert made.tables[0].show_seeds
    assert "Methods have different numbers of seeds." in made.sections[0].verdict.threats


@pytest.mark.fault("P7")
@pytest.mark.usefixtures("no_figures")
def test_a_metric_that_one_method_lacks_is_never_imputed(runs: Path, tmp_path: Path) -> None:
    write_study(runs, {"supcon": (0.3, 0.4)}, artifacts=False)
    for seed in (0, 1):
        found = scores("excon", seed, 0.2)
        if seed:
            del found["scores"]["grad-cam"][KEY]
        found["scores"]["grad-cam"]["deletion.gain"].update(mean=None, n=0)
        write_run(runs, found)
    table = compare(runs, tmp_path / "out").tables[0]
    cells = {
        heading.key: entry
        for row in table.rows
        if row.label == "excon"
        for heading, entry in zip(table.headings, row.entries, strict=True)
    }
    assert (cells["deletion.gain"].mean_text, cells["deletion.gain"].note) == ("–", "[0]")
    assert (cells[KEY].mean, cells[KEY].note) == (0.2, "[1 of 2 seeds]")
    assert "[n] = images where fewer are defined" in table.caption


@pytest.mark.fault("P8")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(schema="xeval.scores/2"), r"has schema xeval\.scores/2, this version reads"),
        (lambda s: s["scores"]["grad-cam"][KEY].update(mean=0.1), r"says drop\.mag@0\.45 0\.1 .*its images give 0\.2"),
        (lambda s: s["scores"]["grad-cam"][KEY].update(n=4), r"\(n = 4\) .*\(n = 3\)"),
        (lambda s: s["scores"]["grad-cam"][KEY].update(mean=None), r"says drop\.mag@0\.45 None"),
    ],
)
def test_an_edited_score_file_is_refused(runs: Path, change: Any, message: str) -> None:
    edited(runs, change)
    with pytest.raises(DataError, match=message) as caught:
        collect(runs)
    assert caught.value.exit_code == 3


@pytest.mark.fault("P8")
def test_an_honest_score_file_agrees_with_its_images(runs: Path) -> None:
    assert collect(edited(runs, lambda _: None)).runs[0].images is not None


@pytest.mark.fault("R2")
@pytest.mark.usefixtures("no_figures")
def test_latex_with_hostile_names_compiles(runs: Path, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        found = scores(name, 0, 0.1 + number / 20)
        found["checkpoint"] |= {"recipe": HOSTILE[0], "sha256": f"{number:064d}"}
        write_run(runs, found, folder=str(number))
    made = compare(runs, tmp_path / "out")
    sources = sorted((made.out / "tables").glob("*.tex"))
    body = "\n".join(source.read_text() for source in sources)
    assert body.count("{") == body.count("}")
    if (latex := shutil.which("pdflatex")) is None:
        return  # the escaping itself is proved character by character in tests/reports/test_text.py
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,xcolor}\\usepackage[T1]{fontenc}"
        f"\\begin{{document}}{body}\\end{{document}}"
    )
    done = subprocess.run(
        [latex, "-no-shell-escape", "-halt-on-error", "-interaction=batchmode", "paper.tex"], cwd=tmp_path, check=False
    )
    log = (tmp_path / "paper.log").read_text(errors="replace")
    assert done.returncode == 0, log[-1500:]
    assert "passwd" not in re.sub(r"textbackslash.*", "", log)


WRITER = """
import os, signal, sys
from pathlib import Path
from xeval.reports import compare
moves, move = [], Path.replace
def replace(self, target):
    moves.append(target)
    if len(moves) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return move(self, target)
Path.replace = replace
compare.figures = lambda *_: []
compare.compare(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.fault("R11")
@pytest.mark.usefixtures("no_figures")
def test_a_kill_while_the_report_is_written_leaves_old_or_new_files(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_study(runs, {"supcon": (0.3,)}, artifacts=False)
    old = {path: path.read_bytes() for path in _files(compare(runs, out).out)}
    write_study(runs, {"excon": (0.2,)}, artifacts=False)
    new = {
        out / path.relative_to(tmp_path / "new"): path.read_bytes()
        for path in _files(compare(runs, tmp_path / "new").out)
    }
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, str(runs), str(out), "7"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=600,
    )
    assert killed.returncode == -signal.SIGKILL
    left = {path: path.read_bytes() for path in _files(out)}
    assert all(content in (old.get(path), new.get(path)) for path, content in left.items())
    assert {path for path, content in left.items() if content == new[path] != old.get(path)}
    assert left[out / "report.html"] == old[out / "report.html"]  # the page comes last
    assert {path: path.read_bytes() for path in _files(compare(runs, out).out)} == new


@pytest.mark.fault("R13")
@pytest.mark.usefixtures("no_figures")
def test_a_comparison_removes_what_killed_ones_left_and_nothing_else(runs: Path) -> None:
    write_study(runs, {"supcon": (0.3,)}, artifacts=False)
    planted = {
        ".report-abcd_123/tables/a.md": False,
        ".report-00000000/report.html": False,
        ".report-notes123/mine.txt": True,
        ".report-2-abcdefgh/report.html": True,
        ".report-abc/report.html": True,
    }
    for name in planted:
        (runs / name).parent.mkdir(parents=True)
        (runs / name).write_text("left")
    (runs / ".report-emptyemp").mkdir()
    compare(runs, runs / "report")
    assert {name: (runs / name).exists() for name in planted} == planted
    assert not (runs / ".report-emptyemp").exists()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.fault("R9")
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
def test_the_page_reads_without_scripts_and_on_paper(runs: Path, tmp_path: Path) -> None:
    made = compare(write_study(runs), tmp_path / "out")
    page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(re.sub(r"<script>.*?</script>", "", made.page.read_text(), flags=re.DOTALL))
    options = [*QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={paper}", page.as_uri()]
    subprocess.run([str(CHROMIUM), *options], check=True, timeout=600, capture_output=True)
    assert len(re.findall(rb"/Type ?/Page\b", paper.read_bytes())) > 3  # tables and figures, not a blank sheet


@pytest.mark.slow
@pytest.mark.fault("R6")
def test_thirty_methods_on_two_hundred_classes_stay_below_the_limit(runs: Path, tmp_path: Path) -> None:
    for number in range(30):
        found = scores(f"method{number:02d}", 0, 0.1 + number / 50)
        found["dataset"]["classes"] = [f"a class with a rather long name {i}" for i in range(200)]
        found["checkpoint"]["sha256"] = f"{number:064d}"
        write_run(runs, found)
    assert compare(runs, tmp_path / "out").page.stat().st_size < 8 << 20
