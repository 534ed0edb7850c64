"""Scoring: options become a plan, the plan becomes per-image values in a store, the store becomes ``scores.json``."""
