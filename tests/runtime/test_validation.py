"""The first mistake of a validation, as every room tells it."""

import pytest
from pydantic import BaseModel, ValidationError

from xeval.runtime.validation import Mistake, first_mistake


class Inner(BaseModel, extra="forbid"):
    sizes: tuple[int, ...] = ()


class Outer(BaseModel):
    inner: Inner


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        ({}, "missing", "inner: Field required"),
        ({"inner": {"other": 1}}, "extra_forbidden", "inner.other: Extra inputs are not permitted"),
        ({"inner": {"sizes": [1, "x", "y"]}}, "int_parsing", "inner.sizes.1: Input should be a valid integer"),
    ],
)
def test_the_first_mistake_has_a_key_and_a_reason(content, reason, text) -> None:
    with pytest.raises(ValidationError) as refused:
        Outer.model_validate(content)
    found = first_mistake(refused.value)
    assert found.reason == reason
    assert str(found).startswith(text)
    assert found.key == text.partition(":")[0]


def test_a_refused_value_is_kept() -> None:
    with pytest.raises(ValidationError) as refused:
        Inner.model_validate({"sizes": ["x"]})
    assert first_mistake(refused.value) == Mistake(
        ("sizes", "0"),
        "Input should be a valid integer, unable to parse string as an integer",
        "int_parsing",
        "x",
    )
