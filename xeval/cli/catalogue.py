"""Writes the lists of ``xeval list``: the names that can be given on the command line."""

from __future__ import annotations

from xeval.metrics.metric import ARROWS


def catalogue(kind: str) -> list[str]:
    """Return the lines of ``xeval list KIND``, each a name and what it is."""
    if kind == "metrics":
        return _metrics()
    if kind == "quantus":
        from xeval.quantus_bridge.survey import markdown, survey

        return markdown(survey())
    if kind == "explainers":
        from xeval.explainers import CONTROLS, EXPLAINERS

        real = [f"{name:<14} {about.citation} (units: {about.units})" for name, about in EXPLAINERS.items()]
        return real + [f"{name:<14} control: {about.about}" for name, about in CONTROLS.items()]
    if kind == "protocols":
        from xeval.scoring.protocols import PROTOCOLS

        return [line for _, protocol in PROTOCOLS.items() for line in protocol.conventions()]
    if kind == "models":
        from xeval.models.sources import lines

        return lines()
    from xeval.data.manage import listing

    return [f"{row['name']:<14} {row['description']}" for row in listing()]


def _metrics() -> list[str]:
    from xeval.metrics import METRICS
    from xeval.quantus_bridge import bridge  # noqa: F401 - registers the metrics that run through Quantus

    lines: list[str] = []
    for name, metric in METRICS.items():
        lines.append(f"{name} ({metric.family}; {metric.citation})")
        for column in metric.columns(metric.settings()):
            lines.append(f"  {ARROWS[column.direction]} {column.name:<26} {column.title}")
    return lines
