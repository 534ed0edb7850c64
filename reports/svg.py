"""This module makes matplotlib's SVG fit for a page with a strict content policy.

A policy with hashes covers ``<style>`` elements but not ``style=`` attributes, which matplotlib writes everywhere. They
become presentation attributes here; ids get the figure's name in front, so that figures on one page never collide.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_PRESENTATION = frozenset(
    {
        *("fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray"),
        *("stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity", "font-family"),
        *("font-size", "font-style", "font-weight", "text-anchor", "clip-path"),
    }
)
_INHERITED = _PRESENTATION - {"opacity", "clip-path"}
_DECIMALS = re.compile(r"(?<![\w#.])(-?\d+\.\d{2})\d+(?![\w.%])")
_BESIDE_LETTERS = re.compile(r"\s*([A-Za-z])\s*")  # in the data of a path, commands need no space around them
_TEXTS = {f"{_SVG}text", f"{_SVG}tspan"}
_GEOMETRY = ("d", "x", "y", "cx", "cy", "r", "width", "height", "points", "transform")
_FONT = re.compile(r"(?P<style>italic |oblique )?(?P<weight>bold |\d{3} )?(?P<size>[\d.]+px) (?P<family>.+)")
#: What matplotlib puts into a ``<style>`` element for all shapes.
_DEFAULTS = {"stroke-linejoin": "round", "stroke-linecap": "butt"}


def inline(svg: str, slug: str, title: str, description: str) -> str:
    """Turn an SVG file into an element inside HTML: no style attributes, unique ids, a title and a description."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in {f"{_SVG}metadata", f"{_SVG}style"}]:
            parent.remove(child)
    short = _short_ids(root, slug)
    for element in root.iter():
        _restyle(element)
        _shorten(element)
        _rename_ids(element, short)
    _hoist(root)
    _describe(root, slug, title, description)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    ET.register_namespace("", _SVG[1:-1])
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _restyle(element: ET.Element) -> None:
    """Turn ``style="fill: red; font: 12px 'X'"`` into ``fill="red" font-size="12px" font-family="'X'"``."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (match := _FONT.fullmatch(value)):
            for key in ("style", "weight", "size", "family"):
                if match[key]:
                    element.set(f"font-{key}", match[key].strip())
        elif name in _PRESENTATION:
            element.set(name, value)


def _shorten(element: ET.Element) -> None:
    """Cut coordinates to a hundredth of a point and drop needless spaces: a page of many figures halves."""
    for name in _GEOMETRY:
        if (value := element.get(name)) is not None:
            value = _DECIMALS.sub(r"\1", value)
            element.set(name, _BESIDE_LETTERS.sub(r"\1", value).strip() if name == "d" else value)
    if element.tag not in _TEXTS:
        element.text = (element.text or "").strip() or None
        for child in element:
            child.tail = (child.tail or "").strip() or None


def _short_ids(root: ET.Element, slug: str) -> dict[str, str]:
    """Return the new name of every id that something refers to; the others are dropped."""
    used = {value for element in root.iter() for value in map(_reference, element.attrib.values()) if value}
    named = [element.attrib["id"] for element in root.iter() if element.get("id") in used]
    return {old: f"{slug}-{number}" for number, old in enumerate(named)}


def _reference(value: str) -> str:
    """Return the id that an attribute such as ``#a`` or ``url(#a)`` refers to, else nothing."""
    return value.removeprefix("url(").removesuffix(")").removeprefix("#") if "#" in value[:5] else ""


def _rename_ids(element: ET.Element, short: dict[str, str]) -> None:
    for name, value in list(element.attrib.items()):
        if name == "id":
            del element.attrib["id"]
            if value in short:
                element.set("id", short[value])
        elif name == _XLINK:
            del element.attrib[name]
            element.set("href", f"#{short[_reference(value)]}")
        elif value.startswith("url(#"):
            element.set(name, f"url(#{short[_reference(value)]})")


def _hoist(element: ET.Element) -> None:
    """Write a presentation attribute that all children of a group share once, at the group."""
    for child in element:
        _hoist(child)
    drawn = [child for child in element if child.tag != f"{_SVG}defs"]
    if element.tag != f"{_SVG}g" or len(drawn) < 2:
        return
    for name, value in sorted(set.intersection(*(set(child.items()) for child in drawn))):
        if name in _INHERITED and name not in element.attrib:
            element.set(name, value)
            for child in drawn:
                del child.attrib[name]


def _describe(root: ET.Element, slug: str, title: str, description: str) -> None:
    for name, text in (("desc", description), ("title", title)):
        element = ET.Element(f"{_SVG}{name}", {"id": f"{slug}-{name}"})
        element.text = text
        root.insert(0, element)
    root.attrib.update(_DEFAULTS)
    root.set("role", "img")
    root.set("aria-labelledby", f"{slug}-title {slug}-desc")
