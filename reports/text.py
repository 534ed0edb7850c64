"""Names that other people wrote are made harmless for each place they are printed.

Method, data set, class and run names may hold markup, LaTeX, ``$…$``, escape sequences or spreadsheet formulas.
HTML is escaped by jinja2; everything else is escaped here.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\|$)|[@-_])")

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}",
    "†": r"$\dagger$", "§": r"\S{}", "α": r"$\alpha$", "Δ": r"$\Delta$",
    "±": r"$\pm$", "‡": r"$\ddagger$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": "$-$", "×": r"$\times$",
    "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "⌊": r"$\lfloor$", "⌋": r"$\rfloor$", "√": r"$\surd$",
    "σ": r"$\sigma$", "β": r"$\beta$", "Σ": r"$\Sigma$", "∞": r"$\infty$", "²": r"$^2$", "–": "--", "—": "---",
    "\u00a0": "~", "…": r"\ldots{}", "→": r"$\rightarrow$",
}  # fmt: skip


def clean(text: str, limit: int = 80) -> str:
    """Make one printable line: escape sequences and controls go, bidi controls are spelled out, long names are cut."""
    line = _ESCAPE_SEQUENCE.sub("", text.replace("\t", " ").replace("\n", " "))
    shown = "".join(f"\\u{ord(c):04x}" if c in _BIDI else c for c in line if c in _BIDI or _printable(c))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _printable(char: str) -> bool:
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def latex(text: str) -> str:
    """Escape text for LaTeX: every special character of the input is printed, none is executed."""
    return "".join(_LATEX.get(char, char) for char in clean(text, limit=4000))


def spreadsheet(text: str) -> str:
    """Escape text for a CSV cell: what a spreadsheet would run as a formula gets an apostrophe in front."""
    line = clean(text)
    return f"'{line}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) or line[:1] in set("=+-@") else line


def markdown(text: str) -> str:
    """Escape text for a cell of a Markdown table: no markup, no column breaks, no raw HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#$~])", r"\\\1", clean(text, limit=4000))


def plot_label(text: str) -> str:
    """Escape text for matplotlib, which hides labels that start with an underscore."""
    line = clean(text, limit=36)
    return f" {line}" if line.startswith("_") else line


def slug(*parts: str) -> str:
    """Return a stable anchor and file name; a name that does not survive intact gets a short hash to stay unique."""
    raw = "-".join(part for part in parts if part)
    plain = re.sub(r"[^a-z0-9.]+", "-", raw.lower()).strip("-.")[:60].strip("-.")
    if plain and plain == raw:
        return plain
    return f"{plain or 'x'}-{hashlib.sha256(raw.encode()).hexdigest()[:6]}"


def number(value: float, decimals: int) -> str:
    """Print ``value`` with a true minus sign and never a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def listed(parts: Iterable[str]) -> str:
    """Join words as in ``a, b and c``; none where there are no parts."""
    every = list(parts)
    return f"{', '.join(every[:-1])} and {every[-1]}" if len(every) > 1 else "".join(every) or "none"
