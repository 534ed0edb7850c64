"""docs/data.md: its figures are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from xeval.data import archive, files, images, unpickler

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def facts() -> dict[str, str]:
    """What stands in the page in the place of each name in braces."""
    return {
        "formats": ", ".join(images.FORMATS),
        "pixels": f"{images.MAX_PIXELS:,}",
        "marker": archive.MARKER,
        "members": f"{archive.MAX_MEMBERS:,}",
        "name": f"{archive.MAX_NAME:,}",
        "bytes": f"{archive.MAX_BYTES:,}",
        "header": f"{archive.MAX_HEADER:,}",
        "read": f"{archive.MAX_READ:,}",
        "file": f"{files.MAX_FILE:,}",
        "globals": ", ".join(sorted(".".join(name) for name in unpickler.ALLOWED)),
    }


def test_figures_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        "members": r"^\| members \| (.*) \|$",
        "name": r"^\| length of a name \| (.*) characters",
        "bytes": r"^\| unpacked bytes, all members together \| (.*) \|$",
        "header": r"^\| bytes of an extended tar header \| (.*) \|$",
        "read": r"^\| bytes of a zip file's directory \| (.*) \|$",
        "file": r"^\| bytes of one image or list \| (.*) \|$",
        "pixels": r"^\| beyond (.*) pixels",
        "formats": r"^decoders of (.*): ",
        "marker": r"with the marker `(.*)` in$",
        "globals": r"^`(.*)`\. Anything else",
    }
    found = {name: re.findall(pattern, text, re.MULTILINE) for name, pattern in rows.items()}
    assert found == {name: [fact] for name, fact in facts().items()}
