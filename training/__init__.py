"""Training: recipes, losses, views and the one loop that writes run directories (see :func:`loop.train`)."""
