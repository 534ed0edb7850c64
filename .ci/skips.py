"""Fail when tests were skipped that are not on the list ``.ci/allowed-skips``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(report: str) -> int:
    """Compare the skipped tests of a JUnit report with the list."""
    listed = (Path(__file__).parent / "allowed-skips").read_text().splitlines()
    allowed = {line.strip() for line in listed if line.strip() and not line.startswith("#")}
    cases = ElementTree.parse(report).iter("testcase")
    skipped = {f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("skipped") is not None}
    for name in sorted(skipped - allowed):
        print(f"skipped, but not in .ci/allowed-skips: {name}")
    return 1 if skipped - allowed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
