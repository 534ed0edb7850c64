"""Names that other people wrote are made harmless for each place they are printed.

Method, data set, class and run names may hold markup, LaTeX, ``$…$``, escape sequences or spreadsheet formulas.
HTML is escaped by jinja2; everything else is escaped here.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\|$)|[@-_])")

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}",
    "†": r"$\dagger$", "§": r"\S{}", "‡": r"$\ddagger$", "–": "--", "—": "---", "…": r"\ldots{}", "\u00a0": "~",
    "‘": "`", "’": "'", "“": "``", "”": "''", "\u2009": r"\,", "\u2011": "-", "\u2044": "/",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "√": r"$\surd$", "∞": r"$\infty$",
    "°": r"$^\circ$", "‖": r"$\Vert$", "⋯": r"$\cdots$", "∂": r"$\partial$", "∫": r"$\int$", "∏": r"$\prod$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "⌊": r"$\lfloor$", "⌋": r"$\rfloor$",
    "⌈": r"$\lceil$", "⌉": r"$\rceil$", "∈": r"$\in$", "∪": r"$\cup$", "∩": r"$\cap$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$",
    "▲": r"$\triangle$", "▼": r"$\bigtriangledown$", "ς": r"$\varsigma$", "ℓ": r"$\ell$",
}  # fmt: skip
#: Letters that pdfLaTeX sets in every text encoding, beside those with one of these accents.
_LETTERS = frozenset("ßæœøåÆŒØÅłŁ¡¿£")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
_LIKE_LATIN = {
    "ALPHA": "A", "BETA": "B", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "IOTA": "I", "KAPPA": "K", "MU": "M",
    "NU": "N", "OMICRON": "O", "RHO": "P", "TAU": "T", "CHI": "X",
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
    return "".join(map(_latex, unicodedata.normalize("NFC", clean(text, limit=4000))))


def _latex(char: str) -> str:
    """Return what prints one character in pdfLaTeX, its code point where nothing does."""
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii() or char in _LETTERS:
        return char
    if greek := _GREEK.fullmatch(unicodedata.name(char, "")):
        return _greek(*greek.groups())
    kind, *parts = unicodedata.decomposition(char).split() or ["?"]
    if kind in ("<sub>", "<super>"):
        return f"${'_' if kind == '<sub>' else '^'}{{{latex(_characters(parts)).replace('$', '')}}}$"
    if kind.startswith("<"):
        return latex(_characters(parts))
    accented = len(parts) == 1 and chr(int(kind, 16)).isascii() and _characters(parts) in _ACCENTS
    return char if accented else f"[U+{ord(char):04X}]"


def _characters(codes: Sequence[str]) -> str:
    return "".join(chr(int(code, 16)) for code in codes)


def _greek(case: str, name: str) -> str:
    """Return a Greek letter of mathematics; those that look like Latin ones have no command of their own."""
    name = name.replace("LAMDA", "LAMBDA")
    if case == "SMALL":
        return "$o$" if name == "OMICRON" else rf"$\{name.lower()}$"
    return rf"$\mathrm{{{_LIKE_LATIN[name]}}}$" if name in _LIKE_LATIN else rf"$\{name.capitalize()}$"


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
