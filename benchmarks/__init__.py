"""Measures the claims on speed and size, in one runnable file each: ``python -m benchmarks.<name>``."""
