"""The metrics of Quantus behind the interface of our own: ``quantus:<ClassName>`` is run by Quantus itself."""
