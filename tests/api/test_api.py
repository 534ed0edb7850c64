import subprocess
import sys
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytest
import torch

import xeval
from tests.runs import make_run
from tests.scenes import images, small_model
from xeval import errors
from xeval.errors import DataError, UsageError
from xeval.reports.compare import compare as report
from xeval.scoring.options import ScoreOptions


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


# ---- the public face


def defaults(function: Any) -> dict[str, Any]:
    return {
        one.name: one.default for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY
    }


def test_score_has_every_option_with_its_default():
    options = {name: about.default for name, about in ScoreOptions.model_fields.items()}
    own = {"normalization", "classes", "similar_to", "allow_stochastic", "reshape"}
    given = defaults(xeval.score)
    assert signature(xeval.score).parameters["data"].default is options.pop("data")
    assert {name: value for name, value in given.items() if name not in own} == options
    assert own <= set(given)


def test_compare_has_every_keyword_with_its_default():
    assert defaults(xeval.compare) == defaults(report)


def test_an_option_that_does_not_exist_is_refused(run):
    with pytest.raises(TypeError, match="surprise"):
        xeval.score(run, surprise=1)


def test_lists_do_as_well_as_tuples(run, tmp_path):
    asked = {"explainers": ["grad-cam"], "metrics": ["drop"], "thresholds": [0.3]}
    frame = xeval.score(run, limit=5, out=str(tmp_path), **asked)
    assert set(frame.explainer[~frame.control]) == {"grad-cam"}
    assert {name.partition("@")[2] for name in frame.column if "@" in name} == {"0.3"}


def test_every_kind_of_error_is_exported():
    kinds = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert kinds <= set(xeval.__all__)
    assert all(getattr(xeval, name) is getattr(errors, name) for name in kinds)
    assert set(xeval.__all__) <= set(dir(xeval))


def test_importing_xeval_is_cheap():
    code = "import sys, xeval; print({'torch', 'numpy', 'pydantic', 'click'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_doors_have_what_a_plug_in_needs():
    from xeval import data, explainers, metrics
    from xeval.metrics.metric import EXPECTED_REASONS

    assert {
        getattr(metrics, name) for name in metrics.__all__ if isinstance(getattr(metrics, name), str)
    } == EXPECTED_REASONS
    assert {"Column", "Explained", "Scene", "Scores", "Settings", "Values", "metric"} <= set(metrics.__all__)
    assert {"control", "explainer"} <= set(explainers.__all__)
    assert {"ArraySplit", "Dataset", "DatasetInfo", "moments", "reader"} <= set(data.__all__)
    assert callable(metrics.metric)


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0, 1]), torch.tensor([0, 1, 3]), torch.tensor([0, -1, 1]), torch.eye(3).long(), torch.rand(3)],
)
@pytest.mark.parametrize("explainer", ["grad-cam", "occlusion"])
def test_explained_classes_are_one_an_image(targets, explainer):
    """A class too few would leave the last image with a map of nothing."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    with pytest.raises(UsageError, match="are not a class of 3 for each of 3 images") as told:
        xeval.explain(model, torch.rand(3, 1, 8, 8), targets, explainer=explainer, layer="0")
    assert "from 0 to 2" in told.value.remedy
