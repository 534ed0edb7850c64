"""Attribution methods and the control explainers beside them."""

from xeval.explainers.base import CONTROLS, EXPLAINERS, Control, Explainer
from xeval.registry import import_modules

__all__ = ["CONTROLS", "EXPLAINERS", "Control", "Explainer"]

import_modules(__name__)
