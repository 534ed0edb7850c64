"""Networks: architectures by name, the classifier around them, their layers, and the mode for scoring them."""

from xeval.models.architectures import MODELS, architecture
from xeval.models.classifier import Classifier, ModelSpec, build
from xeval.models.frozen import frozen_eval
from xeval.models.layers import find_layer, last_conv_stage

__all__ = ["MODELS", "Classifier", "ModelSpec", "architecture", "build", "find_layer", "frozen_eval", "last_conv_stage"]
