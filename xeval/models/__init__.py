"""Networks: architectures by name, the classifier around them, their layers, and the mode for scoring them."""

from xeval.models.architectures import MODELS, Bottleneck, Builder, ResNet, TinyCNN
from xeval.models.classifier import Classifier, ModelSpec, NearestNeighbours, build
from xeval.models.frozen import frozen_eval, reinitialized
from xeval.models.layers import excon_layer, find_layer, last_conv_stage

__all__ = [
    "MODELS",
    "Bottleneck",
    "Builder",
    "Classifier",
    "ModelSpec",
    "NearestNeighbours",
    "ResNet",
    "TinyCNN",
    "build",
    "excon_layer",
    "find_layer",
    "frozen_eval",
    "last_conv_stage",
    "reinitialized",
]
