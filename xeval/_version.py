"""The version of the package, which both the packaging and provenance read."""

__version__ = "0.1.0"
