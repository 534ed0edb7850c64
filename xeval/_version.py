"""The version of the package; the packaging and the provenance read it here."""

__version__ = "0.1.0"
