import pytest
import torch

from tests import reference
from tests.scenes import SIDE, control, explained, images, scene_of, small_model
from xeval.metrics import METRICS
from xeval.metrics.infidelity import raw_infidelity, scaled_infidelity, skill, square_sums
from xeval.metrics.metric import NO_CHANGE

METRIC = METRICS["infidelity"]
SETTINGS = METRIC.settings()


@pytest.fixture(scope="module")
def setting():
    model, x = small_model(), images(8)
    scene = scene_of(model, x)
    return scene, METRIC.prepare(scene, SETTINGS), explained(scene, images(8, 1, seed=2))


def test_square_sums_equal_loops():
    maps = images(2, 1, seed=1)
    top, left = torch.tensor([[0, 3], [11, 5]]), torch.tensor([[0, 7], [2, 11]])
    found = square_sums(maps, top, left, 5)
    for n in range(2):
        for j in range(2):
            y, x = int(top[n, j]), int(left[n, j])
            assert found[n, j].item() == pytest.approx(maps[n, 0, y : y + 5, x : x + 5].double().sum().item(), abs=1e-9)


def test_draws_lie_inside_and_cover_the_image(setting):
    scene, shared, _ = setting
    assert shared.side == 2
    assert shared.top.min() == 0
    assert shared.top.max() == SIDE - 2
    assert shared.left.shape == (8, 64)
    assert scene.engine.passes >= 8 * 64


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_captum_with_the_same_perturbations(setting, normalize):
    """captum.metrics.infidelity is the oracle for the raw and the β-scaled value."""
    from captum.metrics import infidelity

    scene, shared, one = setting
    model, x, n = scene.engine.model, scene.images, SETTINGS.n
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None, :]
    y, z = shared.top[..., None, None], shared.left[..., None, None]
    inside = ((rows >= y) & (rows < y + shared.side) & (columns >= z) & (columns < z + shared.side)).unsqueeze(2)
    inside = inside.expand(-1, -1, 3, -1, -1)

    def perturb(_inputs):  # captum repeats each image n times, image by image
        repeated = x.repeat_interleave(n, 0)
        where = inside.reshape(-1, 3, SIDE, SIDE)
        return where.double(), torch.where(where, torch.zeros_like(repeated), repeated)

    def forward(inputs):
        return model(inputs).double().softmax(1)

    attributions = one.maps.double().expand(-1, 3, -1, -1)
    with torch.no_grad():
        oracle = infidelity(
            forward, perturb, x, attributions, target=scene.targets, n_perturb_samples=n, normalize=normalize
        )
    found = METRIC.score(one, SETTINGS, shared)["infidelity.beta" if normalize else "infidelity.raw"].value
    assert torch.allclose(found, oracle, atol=1e-5, rtol=1e-5)


def test_skill_is_odd_and_free_of_scales(setting):
    _, shared, one = setting
    predicted = square_sums(one.maps, shared.top, shared.left, shared.side)
    found = skill(predicted, shared.change)
    assert torch.allclose(skill(-predicted, shared.change), -found)
    assert torch.allclose(skill(7 * predicted + 3, 0.01 * shared.change - 1), found, atol=1e-9)
    assert (found.abs() <= 1).all()
    r = reference.pearson(predicted[0].tolist(), shared.change[0].tolist())
    assert found[0].item() == pytest.approx(r * abs(r), abs=1e-9)


def test_raw_and_scaled_by_hand():
    s, d = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[2.0, 2.0]]).double()
    assert raw_infidelity(s, d).item() == pytest.approx(0.5)
    beta = 3 / 2.5
    assert scaled_infidelity(s, d).item() == pytest.approx(((beta - 2) ** 2 + (2 * beta - 2) ** 2) / 2)
    assert torch.equal(scaled_infidelity(-s, d), scaled_infidelity(s, d))
    assert scaled_infidelity(0 * s, d).item() == pytest.approx(4)  # β = 0: E[D²]


def test_random_and_constant_maps_know_nothing():
    scene = scene_of(small_model(), images(150))
    shared, one = METRIC.prepare(scene, SETTINGS), explained(scene, images(150, 1))
    random = METRIC.score(control(scene, "random", one), SETTINGS, shared)["infidelity.skill"].value
    assert random.mean().abs() < 3 * random.std() / 150**0.5
    constant = METRIC.score(control(scene, "constant", one), SETTINGS, shared)["infidelity.skill"].value
    assert constant.abs().max() == 0


def test_exact_map_of_a_linear_score_has_skill_one():
    class Linear(torch.nn.Module):
        """Logit 0 is a weighted sum of pixels; small enough for the softmax to be linear."""

        def forward(self, x):
            weight = torch.linspace(-1, 1, SIDE * SIDE).reshape(SIDE, SIDE)
            score = 1e-4 * (x.sum(1) * weight).sum((-2, -1))
            return torch.stack([score, torch.zeros_like(score)], 1)

    x = torch.ones(2, 3, SIDE, SIDE)
    scene = scene_of(Linear().double(), x.double())
    scene = type(scene)(
        **{
            **scene.__dict__,
            "targets": torch.zeros(2, dtype=torch.int64),
            "p0": scene.engine.probabilities(x.double())[:, 0],
        }
    )
    weight = torch.linspace(-1, 1, SIDE * SIDE).reshape(1, 1, SIDE, SIDE).expand(2, -1, -1, -1)
    found = METRIC.score(explained(scene, weight.clone()), SETTINGS, METRIC.prepare(scene, SETTINGS))
    assert torch.allclose(found["infidelity.skill"].value, torch.ones(2).double(), atol=1e-6)


def test_no_change_in_score_is_undefined():
    class Deaf(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2) + 0 * x.sum((1, 2, 3))[:, None]

    scene = scene_of(Deaf(), images(3))
    found = METRIC.score(explained(scene, images(3, 1)), SETTINGS, METRIC.prepare(scene, SETTINGS))
    assert found["infidelity.skill"].undefined[NO_CHANGE].all()
