"""Writes the generated part of the documentation: ``python -m docs.generate docs``, or ``make docs``."""
