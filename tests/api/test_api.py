import numpy as np
import pytest
import torch

import xeval
from tests.runs import make_run
from tests.scenes import images, small_model
from xeval.errors import DataError, UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "digits-excon-s0")[0]


def test_score_and_results_agree(run):
    frame = xeval.score(run, limit=30, metrics=("drop", "complexity"))
    each = xeval.results(run)
    assert list(frame.columns) == ["explainer", "control", "column", "direction", "mean", "se", "n"]
    assert len(each) == 30 * 9
    for row in frame.itertuples():
        values = each.loc[each.explainer == row.explainer, row.column].dropna()
        assert len(values) == row.n
        if row.n > 1:
            assert values.mean() == pytest.approx(row.mean)
            assert values.std() / row.n**0.5 == pytest.approx(row.se)
    assert each.image.nunique() == 30
    assert each.label.between(0, 9).all()
    assert frame.attrs["summary"]["dataset"]["n"] == 30


def test_explain_leaves_the_model_alone():
    model, x = small_model().train(), images(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = xeval.explain(model, x)
    assert maps.shape == (3, 1, 4, 4)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    predicted = small_model()(x).argmax(1)
    assert torch.allclose(maps, xeval.explain(model, x, predicted, layer="backbone.layer3"))


def test_load(run):
    assert xeval.load(run).card.method == "excon"
    with pytest.raises(UsageError, match="unknown weights"):
        xeval.load(run, weights="worst")
    with pytest.raises(DataError, match="no scores"):
        xeval.results(run.parent)
    with pytest.raises(AttributeError):
        xeval.nonsense  # noqa: B018


def test_compare_from_python(tmp_path):
    for method in ("supcon", "excon"):
        folder = make_run(tmp_path / method, method=method, seed=len(method))[0]
        xeval.score(folder, limit=20)
    found = xeval.compare(tmp_path)
    assert (tmp_path / "report" / "report.html").is_file()
    assert np.isfinite(len(found.verdict))
