"""Reads what the network of a file answers, where code of the user's own builds it and may answer with anything."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xeval.checkpoints.load import LoadedModel
from xeval.data import DatasetInfo
from xeval.errors import DataError, UsageError
from xeval.models.answers import outputs_of
from xeval.models.frozen import frozen_eval
from xeval.models.of_code import is_code
from xeval.models.reading import LOGITS, Reading
from xeval.models.watch import two_examples
from xeval.runtime.files import digest


def read_as(loaded: LoadedModel, info: DatasetInfo, output: str) -> LoadedModel:
    """Return a network that answers with logits from now on, read as ``output`` says; others already do.

    Raises:
        UsageError: ``output`` is not for this network, or its answers cannot be read so.
        DataError: it has not as many outputs as there are classes.
    """
    reading = Reading.of(output)
    if loaded.spec is None or not is_code(loaded.spec.arch):
        if reading != LOGITS:
            raise UsageError("--output is for networks of your own code", "leave it out, or name the code with --arch")
        return loaded
    if reading.several:
        raise UsageError(
            "an image of a data set has one label",
            'score the module with its loader: xeval.score(model, loader, output="multilabel")',
        )
    images = two_examples(torch.zeros(1, *info.shape))
    if reading == LOGITS and _answers_with_logits(loaded, images):
        return loaded
    outputs, notes = outputs_of(loaded.model, images, reading)
    if reading.classes(outputs) != len(info.classes):
        raise DataError(
            f"the network answers with {reading.classes(outputs)} classes, {info.name} has {len(info.classes)}",
            "check --output and --dataset",
        )
    meaning = reading.meaning(outputs)
    loaded.model.register_forward_hook(reading)
    told = (*notes, *filter(None, [meaning.told]), f"the network's answers are read as {reading}")
    sha256 = digest([loaded.sha256, str(reading)])
    return replace(loaded, sha256=sha256, notes=(*loaded.notes, *told), meaning=meaning, reading=reading)


def _answers_with_logits(loaded: LoadedModel, images: Tensor) -> bool:
    with frozen_eval(loaded.model), torch.no_grad():
        answer = loaded.model(images)
    return isinstance(answer, Tensor) and answer.ndim == 2 and answer.shape[1] > 1
