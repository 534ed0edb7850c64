"""Coverage and false alarms where the truth is known, and what docs/statistics.md says of them."""

import math

import numpy as np
import pytest
from scipy import special, stats

from tests import simulated
from tests.statistics.samples import PAGE
from xeval.statistics.intervals import compare_methods
from xeval.statistics.tests import holm, permutation_check

pytestmark = pytest.mark.filterwarnings("error")  # guards must come before the division


@pytest.mark.fault("P9")
def test_coverage_and_false_alarms_quickly():
    # 1,000 repetitions: four standard errors are .028
    found = simulated.measure(simulated.SCENARIOS[0], 1000)
    assert 0.922 <= found.coverage <= 0.978
    assert found.false_alarms <= 0.078


@pytest.mark.fault("P9")
def test_a_planted_difference_of_three_standard_deviations_is_found():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a, b = simulated.gaussian(rng, (5, 5), 2000, (0.05, 0.05), own=0.0)
        found.append(compare_methods(a + 3 * 0.05, b).p)
    # Student's power at 8 degrees of freedom, with the residuals' part in the spread of seed means: .984
    noncentral = (3 * 0.05) ** 2 * 2.5 / (0.05**2 + 0.2**2 / 2000)
    power = 1 - special.ncfdtr(1, 8, noncentral, stats.t.isf(0.025, 8) ** 2)
    assert np.mean(np.less(found, 0.05)) > power - 4 * math.sqrt(power * (1 - power) / 300)


def documented(scenario):
    """The coverage that docs/statistics.md states."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {scenario.about} |")]
    return float(line.split("|")[2])


def test_the_page_states_every_scenario():
    assert all(documented(scenario) >= 0.9 for scenario in simulated.SCENARIOS + simulated.LIMITS)


@pytest.mark.slow
@pytest.mark.fault("P9")
@pytest.mark.parametrize("scenario", simulated.SCENARIOS, ids=lambda scenario: scenario.about)
def test_coverage_and_false_alarms(scenario):
    found = simulated.measure(scenario, 10_000)
    assert 0.93 <= found.coverage <= 0.97
    assert not found.false_alarms > 0.08
    assert found.coverage == pytest.approx(documented(scenario), abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", simulated.LIMITS, ids=lambda scenario: scenario.about)
def test_the_documented_limits_are_where_they_are_said_to_be(scenario):
    found = simulated.measure(scenario, 10_000)
    assert 0.90 <= found.coverage < 0.94
    assert not found.false_alarms > 0.10
    assert found.coverage == pytest.approx(documented(scenario), abs=0.005)


@pytest.mark.slow
def test_a_holm_family_of_methods_with_one_reference_keeps_its_level():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(4000):
        reference, *others = simulated.gaussian(rng, (5,) * 6, 300, (0.02, 0.02, 0.05, 0.05, 0.01, 0.0))
        alarms.append(holm([compare_methods(other, reference).p for other in others]).min() < 0.05)
    assert np.mean(alarms) <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "served"), [(1, (0.9, 1)), (3, (0.4, 0.7)), (100, (0, 0.001))])
def test_the_permutation_check_keeps_its_level_and_withholds_itself(ratio, served):
    rng = np.random.default_rng(0)
    p = [permutation_check(rng.normal(size=5), rng.normal(0, ratio, 5)).p for _ in range(6000)]
    given = [x for x in p if x is not None]
    assert served[0] <= len(given) / 6000 <= served[1]
    assert sum(x < 0.05 for x in given) / 6000 <= 0.06  # of all runs: where it is withheld it claims nothing
