"""Perturbations: draws, masks and what takes the place of removed pixels; shared by the metrics and by training."""
