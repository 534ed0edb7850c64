"""How every figure of a report is drawn: quiet axes, one look per row, reproducible SVG and PDF.

Methods, or explainers, differ by colour, line style and marker at once. Names are printed verbatim: mathtext is off.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xeval.reports.captions import table_slug
from xeval.reports.collect import Group
from xeval.reports.svg import inline
from xeval.reports.text import clean, plot_label

COLUMN, PAGE = 3.25, 6.75  # inches: one and two columns of a paper
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 1, 2)), (0, (4, 3)), (0, (2, 2)))
GREY = "#6b6b6b"


@dataclass(frozen=True)
class Figure:
    """A figure is kept in its three forms."""

    slug: str
    title: str
    caption: str
    svg: str  # a file of its own
    pdf: bytes
    embedded: str  # the element inside the page
    narrow: bool = False  # drawn for one column of a paper


@dataclass(frozen=True)
class Look:
    """A look says how a method or an explainer is drawn, everywhere."""

    color: Any
    line: Any
    marker: str


@contextmanager
def style() -> Iterator[None]:
    """Set quiet axes, small type, readable text in SVG, embedded fonts in PDF, no mathtext and reproducible ids."""
    import matplotlib as mpl
    import seaborn as sns

    settings = {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7.5,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "grid.color": "#e6e6e6",
        "axes.edgecolor": "#555555",
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "xeval",
        "pdf.fonttype": 42,
        "figure.dpi": 100,
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
        "legend.frameon": False,
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        sns.set_theme(context="paper", style="whitegrid", rc=settings)
        yield


def axes(rows: int, columns: int, width: float, height: float, **more: Any) -> tuple[Any, Any]:
    """Make a figure without pyplot, so that nothing is global and nothing must be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **more).ravel()


def finish(figure: Any, group: Group, name: str, title: str, caption: str) -> Figure:
    """Save a drawn figure in all its forms, without a date or a name of the software in it."""
    slug = table_slug(group, name)
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found once and shared by both files
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    text = clean(caption, 2000)
    embedded = inline(svg.getvalue(), f"fig-{slug}", title, text)
    return Figure(slug, title, text, svg.getvalue(), pdf.getvalue(), embedded, figure.get_figwidth() <= COLUMN)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of a legend fit below an axis ``width`` inches wide: 17 letters an inch, 7 a handle."""
    return max(1, min(len(labels), int(17 * width / (max(map(len, labels), default=0) + 7))))


def legend_height(labels: Sequence[str], columns: int) -> float:
    """Return the inches that a legend needs beyond the two rows for which every figure has room."""
    return 0.16 * max(0, -(-len(labels) // columns) - 2)


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return one look per method or explainer; grey is left to the controls."""
    import seaborn as sns

    labels = list(labels)
    palette = sns.color_palette("colorblind", max(10, len(labels)))
    order = [i for i in range(len(palette)) if i != 7]
    return {
        label: Look(palette[order[i % len(order)]], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)])
        for i, label in enumerate(labels)
    }


def band(
    axis: Any, x: Sequence[float], series: Sequence[Sequence[float]], look: Look, *, label: str, every: int = 4
) -> None:
    """Draw a mean line with a band of one standard deviation over seeds."""
    import numpy as np

    values = np.asarray(series, dtype=float)
    mean = values.mean(axis=0)
    axis.plot(
        x,
        mean,
        color=look.color,
        linestyle=look.line,
        marker=look.marker,
        markevery=every,
        markersize=3.5,
        label=plot_label(label),
    )
    if len(values) > 1:
        std = values.std(axis=0, ddof=1)
        axis.fill_between(x, mean - std, mean + std, color=look.color, alpha=0.18, linewidth=0)
