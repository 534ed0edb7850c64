"""Measured claims: one runnable file each, ``python -m benchmarks.<name>``."""
