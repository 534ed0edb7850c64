"""What is said of a run in every state it can be in."""

import json
import socket
from pathlib import Path

import pytest

from tests.commands import here
from tests.runs import make_run
from xeval.checkpoints.card import read_card, write_card
from xeval.errors import UsageError
from xeval.sweep.plan import Run, Wish, make_plan
from xeval.sweep.records import change, holding, is_complete, register, require_same
from xeval.sweep.status import standings


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, ...]:
    plan = make_plan(Wish("digits", seeds="0-1", methods=("ce", "supcon"), overrides=("epochs=4",)))
    register(tmp_path, plan.runs, "local")
    return plan.runs


def complete(out: Path, run: Run) -> None:
    made, _ = make_run(out / run.path, method=run.method, seed=run.seed)
    trained = {"recipe": run.choices[0].recipe, "provenance": {"limit": run.limit}}
    write_card(made, read_card(made).model_copy(update=trained), list(read_card(made).files))
    (made / "scores.json").write_text("{}")
    change(out, run.path, state="complete")


def row(out: Path, run: Run):
    return next(one for one in standings(out) if one.run == run.path)


def test_waiting(tmp_path, runs):
    found = row(tmp_path, runs[0])
    assert (found.state, found.done, found.epochs, found.scored, found.log) == ("waiting", 0, 4, False, None)


def test_running_with_its_epochs(tmp_path, runs):
    change(tmp_path, runs[0].path, state="running", host=socket.gethostname(), log="job.out")
    (tmp_path / runs[0].path).mkdir()
    (tmp_path / runs[0].path / "history.csv").write_text("epoch,loss\n1,2.3\n2,2.2\n")
    with holding(tmp_path, runs[0].path):
        found = row(tmp_path, runs[0])
    assert (found.state, found.done, found.epochs, found.log) == ("running", 2, 4, "job.out")


def test_a_job_whose_process_is_gone_has_failed(tmp_path, runs):
    change(tmp_path, runs[0].path, state="running", host=socket.gethostname())
    assert (row(tmp_path, runs[0]).state, row(tmp_path, runs[0]).error) == ("failed", "killed")


def test_the_word_of_another_machine_is_believed(tmp_path, runs):
    change(tmp_path, runs[0].path, state="running", host="elsewhere")
    assert row(tmp_path, runs[0]).state == "running"


def test_failed_with_its_sentence(tmp_path, runs):
    change(tmp_path, runs[0].path, state="failed", error="the loss is no longer finite")
    assert (row(tmp_path, runs[0]).state, row(tmp_path, runs[0]).error) == ("failed", "the loss is no longer finite")


def test_complete_and_scored(tmp_path, runs):
    complete(tmp_path, runs[0])
    found = row(tmp_path, runs[0])
    assert (found.state, found.done, found.scored) == ("complete", 4, True)
    assert is_complete(tmp_path, runs[0])


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
def test_complete_no_more_where_a_file_is_gone(tmp_path, runs, name):
    complete(tmp_path, runs[0])
    (tmp_path / runs[0].path / name).unlink()
    assert row(tmp_path, runs[0]).state == "waiting"
    assert not is_complete(tmp_path, runs[0])


def test_complete_for_one_score_is_not_for_another(tmp_path, runs):
    complete(tmp_path, runs[0])
    more = runs[0].model_copy(update={"score": {"metrics": ["drop"]}})
    assert not is_complete(tmp_path, more)
    require_same(tmp_path, [more])  # scoring more is no other training


@pytest.mark.fault("T12")
def test_other_settings_are_refused_before_anything_starts(tmp_path, runs):
    complete(tmp_path, runs[0])
    same = {"seeds": "0-1", "methods": ("ce",)}
    other = make_plan(Wish("digits", overrides=("epochs=4",), limit=50, **same))
    with pytest.raises(UsageError, match=r"digits-ce-epochs4-s0 belongs to a sweep with other settings"):
        require_same(tmp_path, other.runs)
    require_same(tmp_path, make_plan(Wish("digits", overrides=("epochs=5",), **same)).runs)  # beside the others


# ---- the command


def test_all_complete_is_0(tmp_path, runs, capsys):
    for run in runs:
        complete(tmp_path, run)
    code, out, _ = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 0
    assert "4 runs: 4 complete" in out
    assert out.splitlines()[-1] == f"next: xeval compare {tmp_path}"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("")
    assert f"report: {tmp_path / 'report' / 'report.html'}" in here(capsys, "sweep", "status", str(tmp_path))[1]


def test_failed_is_3_and_running_is_6(tmp_path, runs, capsys):
    for run in runs[1:]:
        complete(tmp_path, run)
    change(tmp_path, runs[0].path, state="running", host="elsewhere")
    code, _, last = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 6
    assert "goes on (4 runs: 3 complete, 1 running) — look again later" in last
    change(tmp_path, runs[0].path, state="failed", error="killed")
    code, out, last = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 3
    assert "compare" not in out
    assert "first digits-ce-epochs4-s0: killed — start the sweep again with the same command" in last
    assert "digits-ce-epochs4-s0      failed    0/4     no      –" in out


def test_what_will_never_start_is_3(tmp_path, runs, capsys):
    code, _, last = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 3
    assert "was interrupted (4 runs: 4 waiting)" in last


def test_json(tmp_path, runs, capsys):
    complete(tmp_path, runs[0])
    _, out, _ = here(capsys, "sweep", "status", str(tmp_path), "--json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert rows["digits-ce-epochs4-s0"]["state"] == "complete"
    assert rows["digits-ce-epochs4-s1"]["scored"] is False


@pytest.mark.parametrize(
    "content", ["", "{}", '{"schema": "xeval.sweep/1"}', '{"schema": "xeval.sweep/1", "run": 3}', "[]"]
)
def test_a_damaged_record_is_named(tmp_path, runs, capsys, content):
    file = tmp_path / ".sweep" / "jobs" / "digits-ce-epochs4-s0.json"
    file.write_text(content)
    code, _, last = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 3
    assert str(file) in last


def test_a_folder_without_a_sweep(tmp_path, capsys):
    code, _, last = here(capsys, "sweep", "status", str(tmp_path))
    assert code == 3
    assert f"{tmp_path} holds no sweep" in last
    assert not list(tmp_path.iterdir())
