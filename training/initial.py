"""Sets the weights that a run begins with: published ones, or those of a file; the head is drawn from the seed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from xeval.checkpoints.identity import tensors_sha256
from xeval.checkpoints.load import encoder_tensors
from xeval.checkpoints.match import differences, listed
from xeval.errors import UsageError
from xeval.models import Classifier, ModelSpec
from xeval.models.parts import Parts
from xeval.models.sources import pretrained
from xeval.training.settings import PRETRAINED


def begin_with(parts: Classifier | Parts, spec: ModelSpec, init: str) -> str:
    """Load an encoder into a network and return the hash of its tensors.

    ``init`` is ``pretrained`` or the path of a run or weight file. Raises :class:`UsageError` where the weights do not
    fit the network at this size, and what opening a file raises.
    """
    network = parts if isinstance(parts, Classifier) else parts.network
    found = _published(parts, spec) if init == PRETRAINED else encoder_tensors(Path(init), spec, parts.head_name)
    own, drawn = network.state_dict(keep_vars=True), set(map(id, parts.head.parameters()))
    found = {name: tensor for name, tensor in found.items() if id(own[name]) not in drawn}  # a head may have two names
    network.load_state_dict({**network.state_dict(), **found})
    return tensors_sha256(found)


def _published(parts: Classifier | Parts, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the published weights of everything but the head."""
    found = _without_head(pretrained(spec).state_dict(), parts.head_name)
    network = parts if isinstance(parts, Classifier) else parts.network
    wanted = _without_head(network.state_dict(), parts.head_name)
    wrong = differences(*({name: tuple(one.shape) for name, one in tensors.items()} for tensors in (wanted, found)))
    if wrong:
        raise UsageError(
            f"the published weights of {spec.arch} do not fit images of {spec.image_size} px: {listed(wrong)}",
            "leave out image_size, which is then that of the published weights",
        )
    return found


def _without_head(tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{head}.")}
