"""Attribution methods and the control explainers beside them."""

from xeval.explainers import cam, cam_variants, controls, gradients, lrp, perturbation
from xeval.explainers.base import CONTROLS, EXPLAINERS, Control, Explainer

__all__ = [
    "CONTROLS",
    "EXPLAINERS",
    "Control",
    "Explainer",
    "cam",
    "cam_variants",
    "controls",
    "gradients",
    "lrp",
    "perturbation",
]
