"""``python -m docs.generate docs`` writes the generated pages below the folder that is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from docs.generate.pages import write
from docs.generate.shared import ROOT


def main(arguments: Sequence[str]) -> None:
    """Write the pages below the given folder; this needs the checkout, because the pages name its tests."""
    if len(arguments) != 1 or not (ROOT / "tests").is_dir():
        sys.exit("usage: python -m docs.generate docs, in a checkout of the repository")
    print(f"{len(write(Path(arguments[0])))} pages")


if __name__ == "__main__":
    main(sys.argv[1:])
