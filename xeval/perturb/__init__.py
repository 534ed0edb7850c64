"""Perturb images: random draws, masks and what replaces removed pixels; the metrics and training share this."""
