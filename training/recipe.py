"""Reads recipe files: a TOML file becomes one validated :class:`Recipe`.

A file may ``extends`` another recipe, may say which methods it ``serves``, and may hold tables ``[methods.NAME]`` whose
keys replace the common ones for that method.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xeval.errors import UsageError, unknown
from xeval.runtime.validation import Mistake, first_mistake
from xeval.training.settings import PRETRAINED, Recipe

__all__ = ["Recipe", "json_schema", "load_recipe", "recipe_hash", "recipe_names", "result_settings"]

FOLDER = Path(__file__).parent / "recipes"
MAX_BYTES = 2**20
MAX_EXTENDS = 20
IDENTITY = ("recipe", "seed", "limit", "explained_from", "crops")
ADDED = ("init", "normalization", "precision")
CROPS = "end at their own edge"  # they once showed what lay beyond it
FILE_KEYS: dict[str, dict[str, Any]] = {
    "extends": {"type": "string", "description": "name or file of the recipe whose keys these replace"},
    "serves": {"type": "array", "items": {"type": "string"}, "description": "methods the recipe is meant for"},
    "methods": {"type": "object", "description": "tables of keys that hold for one method alone"},
}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str | Path, method: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe for one method, from a packaged name or a TOML file, with ``key=value`` overrides.

    The keys of overrides are dotted. Raises :class:`UsageError` naming the key that is unknown, of the wrong type or
    out of range.
    """
    path = _find(name_or_path)
    content = _read(path)
    serves, tables = content.pop("serves", None), content.pop("methods", {})
    if method is not None:
        content["method"] = method
    chosen = content.get("method")
    _require_method(path.stem, chosen, serves)
    content = _merge(content, tables.get(chosen, {}))
    for override in overrides:
        content = _merge(content, _parse(override))
    if content.get("method") != chosen:
        raise UsageError("the method cannot be an override", "choose it with --method, so that its own keys apply")
    if content.get("init") == PRETRAINED:  # such weights are given images as they know them
        content.setdefault("normalization", "network")
    recipe = _validate({"name": path.stem, **content})
    _require_explained(recipe)
    return recipe


def label(recipe: Recipe, overrides: Iterable[str] = ()) -> str:
    """Return what tells the runs of a recipe from those of others on its data set: its name, and what was overridden.

    The name is left out where it is the data set's. Overrides are sorted, since their order changes nothing.
    """
    changed = {key.strip(): value.strip() for key, _, value in (override.partition("=") for override in overrides)}
    changed.pop("name", None)
    own = [] if recipe.name == recipe.dataset else [recipe.name]
    return "-".join(own + [f"{key}{value}" for key, value in sorted(changed.items())])


def recipe_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of every setting that can change the result."""
    from xeval.runtime.files import digest

    return digest(result_settings(recipe.model_dump(mode="json")))


def result_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dumped recipe without the name and the description, which change no result.

    Keys that recipes of before have not are left out where they are off: both have the same hash.
    """
    off = [key for key in ADDED if recipe.get(key) is None]
    return {key: value for key, value in recipe.items() if key not in ("name", "description", *off)}


def explained_from(recipe: Recipe) -> int | None:
    """Return the first epoch, counted from 1, with explanations; None where the method uses none."""
    return recipe.explained_from if _explains(recipe.method) else None


def identity(recipe: Recipe, seed: int, limit: int | None) -> dict[str, Any]:
    """Return what a run must have been started with to be continued by this recipe."""
    settings = result_settings(recipe.model_dump(mode="json"))
    crops = CROPS if recipe.views.crop or recipe.head.views.crop else None
    return {"recipe": settings, "seed": seed, "limit": limit, "explained_from": explained_from(recipe), "crops": crops}


def decisive(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an :func:`identity`, also one of an earlier version, as far as it decides the result.

    Settings that it lacks have their defaults, which are what the version that stored it did; those that its method
    does not use are left out. ``crops`` was not stored while crops had another edge, nor ``explained_from`` while
    explanations began an epoch later, so such a run with crops, or of a method that explains, is like no new one.
    """
    recipe = _complete(result_settings(identity["recipe"]))
    if not _explains(recipe.get("method")):
        recipe.pop("excon", None)
    return {"explained_from": None, "crops": None, **identity, "recipe": recipe}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe file."""
    schema = Recipe.model_json_schema()
    schema["properties"] = {**schema["properties"], **FILE_KEYS}
    schema.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _explains(method: object) -> bool:
    from xeval.training.methods import METHODS

    return isinstance(method, str) and method in METHODS and METHODS[method].explains


def _complete(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a stored recipe with all settings; one with settings of another version stays as it is."""
    try:
        recipe = Recipe.model_validate_json(json.dumps({"name": "stored", **stored}))
    except ValidationError:
        return stored
    return result_settings(recipe.model_dump(mode="json"))


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not _is_file(path):
            raise UsageError(f"the recipe file {path} does not exist", "check the path, or see: xeval list recipes")
        return path
    if str(name_or_path) not in recipe_names():
        raise unknown("recipe", str(name_or_path), recipe_names())
    return FOLDER / f"{name_or_path}.toml"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for a file
        return False


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the tables of a recipe file, merged into those of the recipe it extends."""
    if path in seen or len(seen) > MAX_EXTENDS:
        raise UsageError(f"the recipe {path.stem!r} extends itself, or too many others", "remove one key 'extends'")
    content = _load(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    nearby = path.parent / base
    parent = _read(nearby if _is_file(nearby) else _find(base), (*seen, path))
    return _merge(parent, content)


def _load(path: Path) -> dict[str, Any]:
    """Return the content of one file; raise UsageError where a key beside the recipe's own has the wrong type."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"the recipe file {path} has more than {MAX_BYTES:,} bytes", "give a recipe")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UsageError(f"the recipe file {path} is not valid TOML ({error})", "correct the file") from None
    extends, serves, tables = content.get("extends", ""), content.get("serves", []), content.get("methods", {})
    sound = {
        "extends": isinstance(extends, str),
        "serves": isinstance(serves, list) and all(isinstance(name, str) for name in serves),
        "methods": isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values()),
    }
    for key, is_sound in sound.items():
        if not is_sound:
            raise UsageError(
                f"the recipe file {path}: key {key!r} must be {FILE_KEYS[key]['type']}", "correct the file"
            )
    return content


def _require_method(recipe: str, method: object, serves: list[str] | None) -> None:
    from xeval.training.methods import METHODS

    if not isinstance(method, str):
        raise UsageError(f"recipe {recipe!r}: key 'method' is {method!r}", f"choose from: {', '.join(METHODS)}")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if serves is not None and method not in serves:
        raise UsageError(
            f"the recipe {recipe!r} is not meant for the method {method!r}", f"it serves {', '.join(serves)}"
        )


def _require_explained(recipe: Recipe) -> None:
    """Raise UsageError where the method explains, but only after the last epoch."""
    first = explained_from(recipe)
    if first is not None and first > recipe.epochs and not recipe.excon.allow_unexplained:
        raise UsageError(
            f"{recipe.method} would explain from epoch {first} on and trains for {recipe.epochs}: a run of supcon",
            "set excon.explain_from_epoch lower, or allow it: --set excon.allow_unexplained=true",
        )


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``top`` replaced, table by table."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse(override: str) -> dict[str, Any]:
    """Parse ``optimizer.lr=0.1`` to nested tables; a text that is not a TOML value becomes a string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"the override {override!r} is not of the form key=value", "write for example optimizer.lr=0.1"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return dict(value)


def _validate(content: dict[str, Any]) -> Recipe:
    """Validate strictly through JSON, where a list may stand for a tuple but a string never for a number."""
    name = str(content["name"])[:80]
    try:
        text = json.dumps(content, default=str)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, or tables nested too deeply
        raise UsageError(f"recipe {name!r} holds a value that is no setting ({error})", "correct the recipe") from None
    try:
        return Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _explain(first_mistake(error), name) from None


def _explain(found: Mistake, recipe: str) -> UsageError:
    path = found.path
    where = f"recipe {recipe!r}: key {found.key!r}"
    if found.reason == "extra_forbidden":
        known = _fields(path[:-1])
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return UsageError(f"{where} is unknown", f"{hint}known here: {', '.join(known)}")
    if found.reason == "missing":
        return UsageError(f"{where} is missing", "add it to the recipe")
    wish = found.message.removeprefix("Input ").removeprefix("Value error, ").replace("should", "must", 1)
    if not path:
        return UsageError(f"recipe {recipe!r}: {wish}", "correct the recipe or the override")
    return UsageError(f"{where} is {repr(found.value)[:80]} but {wish}", "correct the recipe or the override")


def _fields(path: Sequence[str]) -> list[str]:
    """Return the keys that exist in the table at ``path``."""
    model: Any = Recipe
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
