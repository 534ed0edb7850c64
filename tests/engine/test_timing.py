"""Which form of a network is taken, with planted times."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.engine.test_folding import lively
from xeval.engine import timing
from xeval.engine.folding import Network, forms_of


@dataclass
class Timer:
    """Gives every form the seconds an image that are planted for it, slowly at first, and remembers the batches."""

    planted: dict[str, float]
    fits: int = 10**9
    seen: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, network: Network, images: Tensor) -> float:
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("planted")
        warm = any(name == network.name for name, _ in self.seen)
        self.seen.append((network.name, len(images)))
        return self.planted[network.name] * len(images) * (1 if warm else 100)


@pytest.fixture
def forms() -> list[Network]:
    return forms_of(lively(), torch.zeros(1, 3, 16, 16))


def test_there_are_four_forms_of_a_residual_network(forms: list[Network]) -> None:
    assert [form.name for form in forms] == [
        "folded, channels last",
        "folded, contiguous",
        "as it is, channels last",
        "as it is, contiguous",
    ]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1.0, 1.2, 1.1, 1.3), "folded, channels last"),
        ((1.0, 0.98, 1.1, 1.3), "folded, channels last"),  # within what timings waver
        ((1.0, 0.95, 1.1, 1.3), "folded, contiguous"),
        ((1.0, 0.95, 1.1, 0.9), "as it is, contiguous"),
    ],
)
def test_another_form_is_taken_where_it_is_clearly_faster(
    forms: list[Network], times: tuple[float, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer(dict(zip((form.name for form in forms), times, strict=True)))
    monkeypatch.setattr(timing, "seconds", timer)
    found = timing.fastest(forms, torch.zeros(8, 3, 16, 16))
    assert found.name == expected
    assert found.rates == pytest.approx({form.name: 1 / t for form, t in zip(forms, times, strict=True)})
    assert found.describe()["images_per_second"][expected] == round(found.rates[expected], 1)
    assert [name for name, _ in timer.seen[:4]] == [form.name for form in forms]  # in turns


@pytest.mark.parametrize(
    ("images", "fits", "sizes"),
    [
        (10**6, 10**9, {256}),
        (10**6, 100, {64}),  # halved until it fits
        (12 * 20, 10**9, {20}),
        (12 * 7, 10**9, set()),  # too few images for a sensible batch
    ],
)
def test_no_more_images_are_passed_than_there_are(
    forms: list[Network], images: int, fits: int, sizes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer({form.name: 1.0 for form in forms}, fits)
    monkeypatch.setattr(timing, "seconds", timer)
    found = timing.fastest_that_fits(forms, torch.zeros(1, 3, 16, 16, device="meta"), images)
    assert {size for _, size in timer.seen} == sizes
    assert sum(size for _, size in timer.seen) <= images
    assert bool(found.rates) is bool(sizes)


def test_nothing_is_timed_on_a_cpu(forms: list[Network], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of a command take the same form, however busy the machine is."""
    timer = Timer({form.name: 1.0 for form in forms})
    monkeypatch.setattr(timing, "seconds", timer)
    assert timing.fastest_that_fits(forms, torch.zeros(1, 3, 16, 16), 10**6) is forms[0]
    assert not timer.seen


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_other_errors_are_raised(forms: list[Network], kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_given: object) -> float:
        raise kind("a defect")

    monkeypatch.setattr(timing, "seconds", broken)
    with pytest.raises(kind, match="a defect"):
        timing.fastest_that_fits(forms, torch.zeros(1, 3, 16, 16, device="meta"), 10**6)
