"""The command line as users type it."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from tests.commands import ROOT, here, xeval
from tests.data.makers import cifar100_binary, noise, write_tree
from tests.runs import make_run
from xeval.cli.completion import LISTS, REGISTRIES
from xeval.cli.main import cli

HEAVY = ("torch", "pandas", "matplotlib", "quantus", "seaborn", "captum", "sklearn", "numpy")
COMMANDS = [[], *[[name] for name in cli.commands], ["data", "list"], ["data", "get"], ["data", "check"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


# ---- the two commands the toolkit was asked for


def test_the_two_commands_as_typed(tmp_path):
    """``xeval score ckpt.pt --dataset cifar100 …`` and ``xeval compare runs/`` in a folder that holds nothing else."""
    labels = np.arange(300) % 100
    data = tmp_path / "data"
    write_tree(data, cifar100_binary(noise(300, 32, 0), labels))
    folder = tmp_path / "empty"
    folder.mkdir()
    for method in ("supcon", "excon"):
        make_run(
            folder / "runs" / f"cifar100-{method}-s0", dataset="cifar100", method=method, seed=len(method), root=data
        )
        xeval("score", f"runs/cifar100-{method}-s0", "--limit", "10", cwd=folder, XEVAL_DATA=str(data))
    from xeval.checkpoints.load import export

    export(folder / "runs" / "cifar100-excon-s0", folder / "ckpt.pt")
    scored = xeval(
        "score", "ckpt.pt", "--dataset", "cifar100", "--thresholds", "0.15,0.3,0.45", cwd=folder, XEVAL_DATA=str(data)
    )
    for expected in ("drop.mag@0.15 ↓", "drop.mag@0.45 ↓", "infidelity.skill ↑", "n = 100", "largest signed map value"):
        assert expected in scored.stdout
    assert "100 images ×" in scored.stderr
    summary = json.loads((folder / "ckpt.pt.xeval" / "scores.json").read_text())
    assert summary["protocol"]["name"] == "xeval"  # the thresholds are the protocol's own
    assert summary["dataset"]["classes"][42] == "fine_42"
    compared = xeval("compare", "runs/", cwd=folder)
    report = folder / "runs" / "report"
    assert "supcon" in compared.stdout
    assert "excon" in compared.stdout
    assert str(report.relative_to(folder) / "report.html") in compared.stdout
    assert (report / "report.html").stat().st_size > 10_000
    assert json.loads((report / "results.json").read_text())
    assert {path.suffix for path in (report / "tables").iterdir()} == {".tex", ".md", ".csv"}
    assert any(path.suffix == ".svg" for path in (report / "figures").iterdir())


def test_train_from_a_recipe_file_export_and_score(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "digits"\ndescription = "smaller"\nepochs = 1\narch = "cnn-tiny"\n')
    shown = xeval("train", "mine.toml", "--method", "ce", "--export", "ckpt.pt", cwd=tmp_path)
    assert shown.stdout.split() == ["ckpt.pt", "runs/digits-ce-mine-s0"]
    scored = xeval("score", "ckpt.pt", "--limit", "20", "--metrics", "drop", "--json", cwd=tmp_path)
    assert json.loads(scored.stdout)["checkpoint"]["method"] == "ce"


# ---- help is cheap


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_loads_nothing_heavy(command, tmp_path):
    """Every ``--help`` in a fresh interpreter; the modules it has loaded are listed at the end."""
    code = (
        f"import sys\nfrom xeval.cli.main import main\nsys.argv = ['xeval', *{command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as left:\n    assert not left.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "LOADED []" in shown.stdout
    assert "Usage" in shown.stdout
    if command and command != ["data"]:
        assert "Example: xeval" in shown.stdout


def test_help_shows_the_values_of_a_choice(capsys):
    _, shown, _ = here(capsys, "score", "--help")
    for choice in ("engine [native|quantus]", "weights [best|last]", "target [pred|label]", "compile [on|off]"):
        assert f"--{choice}" in shown
    assert "--mask [topk|soft|cutoff]" in shown


# ---- completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("score --engine n", ["native"]),
        ("score --metrics drop,infid", ["drop,infidelity"]),
        ("score --metrics infidelity,infid", []),
        ("score --explainers random,grad-c", ["random,grad-cam", "random,grad-cam++"]),
        ("score --protocol clx", ["clxai-2026", "clxai-2026-quantus-0.6"]),
        ("score --fill bl", ["black", "blur"]),
        ("score --dataset cifar", ["cifar10", "cifar100"]),
        ("train digits --method exc", ["excon", "exconb"]),
        ("sweep run digits --methods ce,exconb,exc", ["ce,exconb,excon"]),
        ("explain a b --explainer integ", ["integrated-gradients"]),
        ("verify a --arch resnet50-c", ["resnet50-cifar"]),
        ("train dig", ["digits"]),
        ("sweep run clx", ["clxai", "clxai-cifar10-ce", "clxai-cifar10-supcon", "clxai-cifar10-triplet"]),
        ("data get cifar1", ["cifar10", "cifar100"]),
        ("train digits --log t", ["tensorboard"]),
        ("completion f", ["fish"]),
    ],
)
def test_names_complete_in_the_shell(words, expected, capsys, monkeypatch):
    monkeypatch.setenv("_XEVAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"xeval {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    code, shown, _ = here(capsys)
    assert code == 0
    assert shown.split() == [f"plain,{name}" for name in expected]


def test_a_recipe_of_ones_own_is_a_file(capsys, monkeypatch):
    monkeypatch.setenv("_XEVAL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "xeval train mine/my")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert here(capsys)[1].split() == ["file,mine/my"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_xeval(shell, capsys):
    code, script, _ = here(capsys, "completion", shell)
    assert code == 0
    assert f"_XEVAL_COMPLETE={shell}_complete" in script
    assert re.search(r"^ *(complete|compdef) .*xeval", script, re.MULTILINE)


def test_bash_completes_as_documented(tmp_path):
    """The line of the help in a real bash; a command of that name stands in the path, as after an installation."""
    command = tmp_path / "xeval"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m xeval "$@"\n')
    command.chmod(0o755)
    typed = """
        eval "$(xeval completion bash)"
        COMP_WORDS=(xeval score --engine q) COMP_CWORD=3
        _xeval_completion xeval
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(["bash", "-c", typed], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["quantus"], shown.stderr


def test_every_registry_of_the_completion_exists():
    for option, places in REGISTRIES.items():
        for place in places:
            module, name = place.split(":")
            assert len(list(getattr(import_module(module), name))) > 1, option
    assert set(REGISTRIES) >= LISTS


# ---- mistakes


@pytest.mark.fault("S11", "S12", "S17", "E4")
@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--thresholds", "1.5"], 2, "threshold 1.5 .* — .* from 0 to 1"),
        (["--thresholds", "-0.1"], 2, "threshold -0.1 .* — "),
        (["--thresholds", "abc"], 2, "threshold 'abc' .* — "),
        (["--thresholds", "15"], 2, r"did you mean 0\.15\?"),
        (["--thresholds", "0.15,0.15"], 2, "0.15 .*twice"),
        (["--thresholds", ""], 2, "not a number"),
        (["--thresholds", "1e-9"], 2, "no pixel"),
        (["--thresholds", "nan"], 2, "nan .*fraction"),
        (["--dataset", "cifar1000"], 2, "'cifar1000' — .*'cifar100'"),
        (["--metrics", "infidelty"], 2, r"did you mean 'infidelity'\?"),
        (["--explainers", "gradcam"], 2, r"did you mean 'grad-cam'\?"),
        (["--layer", "backbone.stagee"], 2, r"did you mean 'backbone\.stage'\?"),
        (["--protocol", "excon"], 2, "unknown protocol 'excon'"),
        (["--engine", "fast"], 2, "--engine.*'native', 'quantus'"),
        (["--weights", "worst"], 2, "--weights.*'best', 'last'"),
        (["--target", "other"], 2, "--target.*'pred', 'label'"),
        (["--mask", "hard"], 2, "--mask.*'topk', 'soft', 'cutoff'"),
        (["--compile", "yes"], 2, "--compile.*'on', 'off'"),
        (["--limit", "0"], 2, "--limit"),
        (["--batch-size", "many"], 2, "--batch-size"),
        (["--limit", "-3"], 2, "--limit"),
        (["--device", "cuda:7"], 2, "--device"),
        (["--device", "abacus"], 2, "--device"),
        (["--no-such-option"], 2, "No such option"),
        (["--dataset", "shapes"], 3, "10 outputs, shapes has"),
        (["--data", "nowhere", "--dataset", "cifar100"], 3, "nowhere"),
    ],
)
def test_score_mistakes(run, capsys, tmp_path, options, code, named):
    if "--device" in options and options[1].startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.fail("this machine has more devices than the test thinks possible")
    left, out, last = here(capsys, "score", str(run), "--out", str(tmp_path / "scores"), *options)
    assert (left, out) == (code, "")
    assert last.startswith(f"xeval: error[E{code}00]: ")
    assert re.search(named, last), last
    assert not (tmp_path / "scores" / "scores.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["score", "nothing.pt"], 2, "nothing.pt does not exist"),
        (["train", "digit"], 2, "digit"),
        (["train", "digits", "--method", "excom"], 2, "did you mean 'excon'?"),
        (["train", "digits", "--set", "optimizer.lrr=1"], 2, "optimizer.lrr"),
        (["train", "digits", "--set", "optimizer.lr=-1"], 2, "optimizer.lr"),
        (["train", "digits", "--set", "epochs=0"], 2, "epochs"),
        (["train", "digits", "--set", "epochs"], 2, "epochs"),
        (["compare", "nowhere"], 3, "nowhere"),
        (["data", "get", "cifar1"], 2, "did you mean 'cifar10'?"),
        (["data", "get", "digits"], 2, "nothing to download"),
        (["list", "metric"], 2, "metric"),
        (["explain", "ckpt.pt", "a.png", "--weights", "worst"], 2, "'best', 'last'"),
    ],
)
def test_other_mistakes(capsys, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    left, _, last = here(capsys, *arguments)
    assert left == code, last
    assert last.startswith("xeval: error[E")
    assert message in last
    assert " — " in last


def test_compare_without_a_complete_run(run, capsys, tmp_path):
    shutil.copytree(run, tmp_path / "unscored")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "state").mkdir()
    left, _, last = here(capsys, "compare", str(tmp_path))
    assert left == 3
    assert "unscored" in last


def test_a_bug_keeps_its_traceback_in_a_file(run, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("xeval.scoring.run.make_plan", lambda *_: 1 / 0)
    left, _, last = here(capsys, "score", str(run))
    assert left == 1
    assert "internal error, ZeroDivisionError" in last
    (kept,) = tmp_path.glob("xeval-traceback-*.txt")
    assert "Traceback" in kept.read_text()


@pytest.mark.fault("S2")
def test_interrupt_is_130(run, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xeval.scoring.run.make_plan", interrupted)
    assert here(capsys, "score", str(run))[0] == 130


def test_control_characters_never_reach_the_terminal(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left, _, last = here(capsys, "score", "evil\x1b]8;;x\x07.pt")
    assert left == 2
    assert "\x1b" not in last


# ---- lists


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("metrics", "↑ infidelity.skill"),
        ("explainers", "random-cam"),
        ("protocols", "xeval"),
        ("methods", "exconb"),
        ("recipes", "excon-cifar100-b128"),
        ("models", "resnet50-cifar"),
        ("datasets", "tiny-imagenet"),
    ],
)
def test_lists(capsys, kind, expected):
    code, out, _ = here(capsys, "list", kind)
    assert code == 0
    assert expected in out


def test_data_list_and_check(capsys):
    assert "cifar100" in here(capsys, "data", "list")[1]
    found = json.loads(here(capsys, "data", "check", "digits")[1])
    assert found["splits"]["test"]["images"] == 360
