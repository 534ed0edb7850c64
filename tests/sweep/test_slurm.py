"""The scripts for a cluster; a pretended one takes them."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.commands import here
from xeval.errors import UsageError
from xeval.sweep.slurm import DEFAULTS, minutes, options_of

GOLDEN = Path(__file__).parent / "golden" / "tuning.sh"
SWEEP = ["sweep", "digits", "--executor", "slurm", "--methods", "supcon,excon", "--seeds", "0-1"]
SBATCH = """#!{python}
import pathlib, sys
here = pathlib.Path({folder!r})
number = 100 + len(list(here.glob("*.sh")))
(here / f"{{number}}.sh").write_text(pathlib.Path(sys.argv[1]).read_text())
print(f"Submitted batch job {{number}}")
"""
SACCT = """#!{python}
import json, pathlib
print("JobID|State|NodeList")
for job, state in json.loads((pathlib.Path({folder!r}) / "states.json").read_text()).items():
    print(f"{{job}}|{{state}}|node1")
"""


def normalised(text: str, out: Path) -> str:
    return text.replace(str(out), "OUT").replace(sys.executable, "PYTHON")


def test_the_scripts_equal_the_golden_file(capsys, tmp_path):
    """Three phases: tuning and training as arrays, then the comparison, each after the one before it."""
    options = ["--set", "explain_from_epoch=0,5", "--slurm", "partition=gpu", "--slurm", "array_parallelism=3"]
    code, shown, _ = here(capsys, *SWEEP, *options, "--dry-run", "--out", str(tmp_path / "out"))
    assert code == 0
    assert normalised(shown, tmp_path / "out") == GOLDEN.read_text()
    assert not list(tmp_path.iterdir())  # a dry run writes nothing


# ---- options


def test_options_have_defaults_and_are_typed():
    assert options_of([], {}) == DEFAULTS
    given = options_of(["time=1-06:00:00", "gpus_per_node=2", "mem=64GB", "setup=module load cuda"], {"qos": "low"})
    assert given == {
        **DEFAULTS,
        "time": 1800,
        "gpus_per_node": 2,
        "mem": "64GB",
        "setup": ["module load cuda"],
        "qos": "low",
    }
    assert "gpus_per_node" not in options_of(["gres=gpu:a100:1"], {})  # the two exclude each other


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), (90, 90), ("12:00:00", 720), ("2-00:00:00", 2880), ("1-12", 2160), ("1-01:30", 1530), ("30:00", 30)],
)
def test_times_as_sbatch_reads_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("partitoin=gpu", "unknown SLURM option 'partitoin' — did you mean 'partition'"),
        ("partition", "not of the form KEY=VALUE"),
        ("time=soon", "'soon' is no time limit"),
        ("time=0", "less than a minute"),
        ("dependency=afterok:1", "unknown SLURM option 'dependency'"),
    ],
)
def test_wrong_options(pair, message):
    with pytest.raises(UsageError, match=message):
        options_of([pair], {})


# ---- a pretended cluster


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder with sbatch, srun and sacct on the PATH; scripts arrive in it, ``states.json`` is what sacct says."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("sacct", SACCT)):
        (folder / name).write_text(text.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
    (folder / "states.json").write_text("{}")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def sent(cluster: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(cluster.glob("*.sh"))}


def test_phases_wait_for_each_other_and_nothing_is_submitted_twice(cluster, tmp_path, capsys):
    out = tmp_path / "runs"
    command = [*SWEEP, "--set", "explain_from_epoch=0,5", "--out", str(out)]
    code, shown, _ = here(capsys, *command)
    assert code == 0
    assert "digits-excon-s0: job 101_2" in shown
    tuning, training, comparing = sent(cluster).values()
    assert "--array=0-3%4" in tuning
    assert "dependency" not in tuning
    assert "--array=0-3%4" in training
    assert "--dependency=afterany:100" in training
    assert "--dependency=afterany:101" in comparing
    assert "array" not in comparing
    (cluster / "states.json").write_text(json.dumps({"100_[0-3]": "PENDING", "101_[0-3]": "PENDING"}))
    code, shown, _ = here(capsys, *command)
    assert "nothing to submit: 8 runs are in the queue" in shown
    assert len(sent(cluster)) == 3


def test_status_asks_the_scheduler(cluster, tmp_path, capsys):
    out = tmp_path / "runs"
    here(capsys, *SWEEP, "--out", str(out))
    states = {"100_0": "RUNNING", "100_1": "PENDING", "100_2": "CANCELLED by 0", "100_3": "PREEMPTED"}
    (cluster / "states.json").write_text(json.dumps(states))
    code, shown, last = here(capsys, "sweep", "status", str(out))
    found = dict(re.findall(r"^(digits-\S+\d) +(\S+)", shown, re.MULTILINE))
    assert found == {
        "digits-supcon-s0": "running",
        "digits-supcon-s1": "waiting",
        "digits-excon-s0": "failed",
        "digits-excon-s1": "waiting",
    }
    assert code == 3
    assert "digits-excon-s0: job 100_2 ended without finishing it" in last
    here(capsys, *SWEEP, "--out", str(out))  # what has failed once more; the comparison waits for all
    scripts = list(sent(cluster).values())
    assert len(scripts) == 4
    assert "array" not in scripts[2]
    assert "--dependency=afterany:100:102" in scripts[3]


def test_without_a_cluster_it_is_one_sentence_and_nothing_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, last = here(capsys, *SWEEP, "--out", str(tmp_path / "runs"))
    assert code == 5
    problem, _, remedy = last.partition(" — ")
    assert "sbatch" in problem
    assert "--executor local" in remedy
    assert not (tmp_path / "runs").exists()
