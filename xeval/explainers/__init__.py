"""Attribution methods (explainers) and the control explainers that they are compared with."""

from xeval.explainers.base import CONTROLS, EXPLAINERS, Control, Explainer, control, explainer
from xeval.registry import import_modules

__all__ = ["CONTROLS", "EXPLAINERS", "Control", "Explainer", "control", "explainer"]

import_modules(__name__)
