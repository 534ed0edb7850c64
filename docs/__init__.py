"""The documentation; :mod:`docs.generate` writes the pages that come from the registry."""
