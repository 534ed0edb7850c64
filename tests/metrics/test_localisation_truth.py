"""Localisation where the truth is known: drawn shapes with exact masks."""

import pytest

import xeval
from tests.commands import xeval as command
from tests.scenes import explained, scene_of, small_model
from xeval.data import normalize, open_dataset
from xeval.metrics import METRICS, Scene

COLUMNS = ("pointing.hit", "relevance.mass", "topk.iou")


def test_the_mask_itself_is_the_best_map_and_its_inverse_the_worst():
    split = open_dataset("shapes").split("test")
    rows = list(range(40))
    scene = scene_of(small_model(classes=5), normalize(split.read(rows), split.info))
    scene = Scene(**{**scene.__dict__, "masks": split.masks(rows)})
    oracle = explained(scene, split.masks(rows).float() - 0.5)
    for name, column in zip(("pointing", "relevance", "topk"), COLUMNS, strict=True):
        metric = METRICS[name]
        best = metric.score(oracle, metric.settings(), None)[column].value
        worst = metric.score(oracle.inverted(), metric.settings(), None)[column].value
        assert best.mean() == 1, column
        assert worst.mean() == 0, column


@pytest.mark.slow
def test_a_trained_model_s_grad_cam_beats_the_controls(tmp_path):
    """Fixed seed; the difference to each control exceeds three standard errors of both together."""
    command("train", "shapes", "--method", "ce", "--set", "epochs=12", cwd=tmp_path)
    frame = xeval.score(tmp_path / "runs" / "shapes-ce-s0", metrics=("pointing", "relevance", "topk"), limit=200)
    cells = frame.set_index(["explainer", "column"])
    for column in COLUMNS:
        ours = cells.loc[("grad-cam", column)]
        for control in ("random-cam", "centre", "random", "shuffled"):
            theirs = cells.loc[(control, column)]
            assert ours["mean"] - theirs["mean"] > 3 * (ours["se"] ** 2 + theirs["se"] ** 2) ** 0.5, (column, control)
