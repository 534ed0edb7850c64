"""Quantus behind the interface of our own metrics: ``quantus:<ClassName>``, run by Quantus itself."""
