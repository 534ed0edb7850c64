"""Scoring turns options into a plan, the plan into per-image values in a store, and the store into ``scores.json``."""
