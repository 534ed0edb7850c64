import json
from dataclasses import replace

import pytest
import torch

from tests.commands import ROOT, here
from tests.explainers.networks import seeded
from tests.models.test_layers import Tokens, of_class
from tests.runs import make_run
from tests.scenes import images, scene_of, small_model
from xeval.errors import DataError
from xeval.explainers import EXPLAINERS
from xeval.metrics.drop import drop_increase
from xeval.verify import run as verify
from xeval.verify.cams import CAMS
from xeval.verify.check import Check, Subject


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


@pytest.fixture
def subject():
    model = small_model()
    return Subject(scene_of(model, images(4)), model.pooled_layer, EXPLAINERS["grad-cam"])


def constant(value):
    return Check("a constant", "itself", "", 1e-5, lambda _s: torch.zeros(3), lambda _s: torch.full((3,), value))


# ---- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["digits", "shapes"])  # one channel without masks; three with masks
def test_every_comparison_is_equal(dataset, tmp_path):
    directory, _ = make_run(tmp_path / f"{dataset}-excon-s0", dataset=dataset, arch="resnet-small")
    rows = verify.verify(directory, n=5, batch_size=16, device="cpu")
    assert len(rows) == len(verify.checks())
    for row in rows:
        if dataset == "digits" and row.verdict == "no masks":
            assert row.name in ("pointing.hit", "relevance.mass", "topk.iou")
            continue
        assert row.verdict == "equal", row
        assert row.n >= 5, row
        assert row.difference <= row.tolerance
        assert row.native_seconds > 0
        assert row.oracle_seconds > 0
    verify.require_agreement(rows)


def test_both_sides_see_the_colours(subject):
    """On random RGB images with a tie at every border of the map, ranks and draws are still the same."""
    for check in verify.checks():
        if not check.needs_masks:
            row = verify.compare(check, subject)
            assert row.verdict == "equal", row


def test_what_one_side_is_not_made_for_is_said():
    """Tokens: captum reads maps only, guided backpropagation has no rule, and pytorch-grad-cam is told their grid."""
    model = seeded(lambda: Tokens(of_class))
    tokens = Subject(scene_of(model, images(4)), "blocks.1.norm", EXPLAINERS["grad-cam"])
    rows = [verify.compare(check, tokens) for name, check in CAMS if name != "ablation-cam"]
    assert [row.verdict for row in rows if "captum" in row.oracle] == ["refused", "refused"]
    assert [row.verdict for row in rows if "pytorch" in row.oracle] == ["equal"] * (len(rows) - 2)
    verify.require_agreement(rows)
    assert "| refused |" in "\n".join(verify.table(rows))


def test_a_wrong_definition_is_found(subject, monkeypatch):
    def forgets_p0(p0, p1, tie):
        found = drop_increase(p0, p1, tie)
        return {**found, "drop.mag": found["drop.mag"] * p0}

    monkeypatch.setattr("xeval.metrics.drop.drop_increase", forgets_p0)
    rows = [verify.compare(check, subject) for check in verify.checks() if check.name.startswith(("drop", "increase"))]
    wrong = {row.oracle for row in rows if row.verdict == "DIFFERS"}
    assert "a loop over pixels" in wrong
    assert "torch-cam average drop, top-k masks" in wrong
    assert {row.verdict for row in rows if row.name.startswith("increase")} == {"equal"}
    with pytest.raises(DataError, match="fell outside their tolerance: drop.mag"):
        verify.require_agreement(rows)


def test_networks_are_left_alone(subject):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    for check in verify.checks():
        if check.package in ("captum", "pytorch_grad_cam", "torchcam"):
            verify.compare(check, subject)
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in subject.model.parameters())
    assert all(not module._forward_hooks for module in [*subject.model.modules(), *subject.exact.model.modules()])


def test_tie_free_maps_keep_the_ranking(subject):
    maps, ranking = subject.tie_free(3), subject.one().ranking
    assert maps.shape == (4, 3, 16, 16)
    assert maps[0].unique().numel() == 3 * 256
    for channel in range(3):
        order = maps[:, channel].flatten(1).argsort(1, descending=True)
        assert torch.equal(ranking.flatten(1).gather(1, order), torch.arange(256).expand(4, -1))


def test_difference_by_hand():
    nan, inf = float("nan"), float("inf")
    assert verify.difference(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0])) == (pytest.approx(0.5 / 1.5), 2)
    assert verify.difference(torch.tensor([100.0]), torch.tensor([101.0]))[0] == pytest.approx(1 / 101)
    assert verify.difference(torch.tensor([nan, 2.0]), torch.tensor([7.0, 2.0])) == (0, 1)  # undefined natively
    assert verify.difference(torch.tensor([1.0]), torch.tensor([nan])) == (inf, 1)
    assert verify.difference(torch.zeros(2), torch.zeros(3)) == (inf, 0)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_the_table(run, capsys):
    status, shown, _ = here(capsys, "verify", str(run), "--n", "4", "--device", "cpu")
    assert status == 0
    assert "| drop.mag | a loop over pixels | 12 | " in shown
    assert shown.count(" | equal | ") == len(verify.checks()) - 3
    assert "quantus 0.6" in shown


def test_exit_code_3_where_one_falls_outside(run, capsys, monkeypatch):
    monkeypatch.setattr(verify, "checks", lambda: [constant(0.0), constant(0.1)])
    status, shown, last = here(capsys, "verify", str(run), "--n", "2", "--json")
    assert status == 3
    assert [row["verdict"] for row in json.loads(shown)] == ["equal", "DIFFERS"]
    assert last.startswith("xeval: error[E300]: 1 of 2 comparisons fell outside their tolerance: a constant (itself)")


def test_what_is_not_installed_is_no_success(subject):
    row = verify.compare(replace(constant(0.0), package="no_such_package"), subject)
    assert row.verdict == "not installed"
    assert row.difference is None
    text = verify.table([row])
    assert text[2].count("–") == 4
    assert text[-1].startswith("not installed: ")
    assert "xeval-explanations[verify]" in text[-1]
    verify.require_agreement([row])


def test_docs_show_every_comparison():
    text = (ROOT / "docs" / "parity.md").read_text()
    for check in verify.checks():
        lines = [line for line in text.splitlines() if line.startswith(f"| {check.name} | {check.oracle} | ")]
        assert lines, check
        assert f" | {check.tolerance:.0e} | " in lines[0]
        assert " | equal | " in lines[-1]
    assert "DIFFERS" not in text
