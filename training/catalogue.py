"""Writes the lines of ``xeval list methods`` and ``xeval list recipes``."""

from __future__ import annotations

from xeval.training.recipe import load_recipe, recipe_names


def lines(kind: str) -> list[str]:
    """Return a line with name and description for every method or every packaged recipe."""
    if kind == "recipes":
        return [f"{name:<30} {load_recipe(name).description}" for name in recipe_names()]
    from xeval.training.methods import METHODS

    return [f"{name:<12} {about.description} (classifier: {about.head})" for name, about in METHODS.items()]
