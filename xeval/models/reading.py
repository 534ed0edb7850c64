"""Read what a network answers as logits N×classes, whichever container they lie in and whatever they are.

``KIND``, ``KEY`` or ``KEY:KIND`` says how. The kind is what the numbers are, ``logits`` unless it is said; the key is
the part that holds them: a key of a dictionary, an attribute of an object, the number of an item of a tuple. Without a
key it is the part that is called like the kind, else the first item of a tuple or a list, else the only tensor there
is. A reading is a forward hook of the network, so explainers, metrics, captum and copies all see logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn

from xeval.errors import UsageError, unknown

Link: TypeAlias = Literal["softmax", "sigmoid", "cosine"]
M = TypeVar("M", bound=nn.Module)
CALLED = {
    "probabilities": ("probabilities", "probs"),
    "multilabel-probabilities": ("probabilities", "probs"),
    "embeddings": ("embeddings", "image_embeds", "pooler_output"),
}
WRAP = "wrap it in a module that returns a logit for each class, N×classes"


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _log_odds(p: Tensor) -> Tensor:
    return _log(p) - _log(1 - p)


def _both(z: Tensor) -> Tensor:
    """The logits N×2 of the two classes of one logit N×1: what speaks for one class speaks against the other."""
    return torch.cat([-z, z], 1)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda z: _both(z) if z.shape[1] == 1 else z,
    "probabilities": lambda p: _both(_log_odds(p)) if p.shape[1] == 1 else _log(p),
    "multilabel": lambda z: z,
    "multilabel-probabilities": _log_odds,
}
"""What the numbers N×K of an answer are, and the logits that they become."""

PROBABLE = {"logits": "probabilities", "multilabel": "multilabel-probabilities"}


SEVERAL = (
    "an image may have several labels: each that it has is explained in a row of its own, image:label; softmax stands "
    "for the sigmoid of that label's logit; an image's rows are averaged first, so that means, standard errors, "
    "intervals and n are of images; accuracy is the share of images on which every label is right at ½ (exact match)"
)
ONE = "one output z: the logits of the two classes are −z and z, softmax stands for their sigmoids"


@dataclass(frozen=True)
class Meaning:
    """What logits stand for.

    ``link`` makes probabilities of them; cosines are taken as they are. Images have one label, or may have ``several``.
    ``fixed`` says that each row has its own target, which no prediction chooses, and ``peak`` that the score is at its
    maximum at the image itself. ``told`` is printed with a table.
    """

    link: Link = "softmax"
    several: bool = False
    fixed: bool = False
    peak: bool = False
    told: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether an image has one class, whose probability says how sure the network is."""
        return self.link != "cosine" and not self.several

    @property
    def lacks(self) -> dict[str, str]:
        """What metrics may need and such logits do not give, and why."""
        if self.link == "cosine":
            why = "the score is a cosine, not the probability of a class"
            alone = {"other class": "there is no other class"} if self.fixed else {}
            return {"softmax": why, "one label": why, **alone}
        found = {"softmax": "the network's probabilities are sigmoids, not a softmax"} if self.link == "sigmoid" else {}
        return {**found, "one label": "an image has several labels, not one class"} if self.several else found


@dataclass(frozen=True)
class Reading:
    """How the answer of a network is read: the ``kind`` of its numbers, one of ``KINDS``, and their ``key``.

    ``whole`` says that all of an answer's part is meant, whatever it is: the part is taken, and nothing is made of it.
    """

    kind: str = "logits"
    key: str | None = None
    whole: bool = False

    @classmethod
    def of(cls, text: str) -> Reading:
        """Return the reading that ``KIND``, ``KEY`` or ``KEY:KIND`` names; raise :class:`UsageError` for others."""
        key, colon, kind = text.rpartition(":")
        if kind in KINDS:
            return cls(kind, key or None)
        if colon or not text:
            raise unknown("kind of output", kind, KINDS)
        return cls(key=text)

    def __str__(self) -> str:
        return self.kind if self.key is None else f"{self.key}:{self.kind}"

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.kind.startswith("multilabel")

    @property
    def squashed(self) -> bool:
        """Whether the numbers are said to be probabilities."""
        return self.kind.endswith("probabilities")

    @property
    def curved(self) -> str:
        """What lies between the network's answer and its logits, other than a linear step; empty where nothing does."""
        return "the logarithm of probabilities" if self.squashed else ""

    @property
    def probable(self) -> Reading:
        """The same reading of numbers that are probabilities."""
        return self if self.squashed else replace(self, kind=PROBABLE[self.kind])

    def meaning(self, outputs: int) -> Meaning:
        """Return what the logits of so many outputs stand for."""
        if self.several:
            return Meaning("sigmoid", several=True, fixed=True, told=SEVERAL)
        return Meaning("sigmoid", told=ONE) if outputs == 1 else Meaning()

    def classes(self, outputs: int) -> int:
        """Return how many classes so many outputs are: one output is two classes, or one label of several."""
        return 2 if outputs == 1 and not self.several else outputs

    def __call__(self, _model: nn.Module, _given: Any, answer: Any) -> Any:
        """Replace an answer by its logits, as a forward hook does."""
        return self.part(answer) if self.whole else self.logits(answer)

    def logits(self, answer: Any) -> Tensor:
        """Return the logits N×classes of an answer; raise :class:`UsageError` where it has none."""
        return KINDS[self.kind](self.numbers(answer))

    def numbers(self, answer: Any) -> Tensor:
        """Return the numbers N×K of an answer, one logit an image as N×1.

        Raises:
            UsageError: what the model answers is no number a class.
        """
        found = self.part(answer)
        if not isinstance(found, Tensor):
            raise UsageError(f"the model does not return logits N×classes, but a {type(found).__name__}", WRAP)
        if not found.is_floating_point():
            raise UsageError("the model returns whole numbers (classes that are decided already?)", WRAP)
        if found.ndim == 4:
            raise UsageError(
                "the model answers with classes of pixels N×C×H×W (segmentation), and a map here explains one number "
                "of a whole image",
                "wrap it in a module that returns one logit a class, such as the mean over the pixels that matter",
            )
        if found.ndim > 2:
            raise UsageError(
                f"the model answers with numbers of {found.ndim} axes, a class for each of several boxes or tokens, "
                "and a map here explains one number of a whole image",
                WRAP,
            )
        return found if found.ndim == 2 else found.reshape(-1, 1)

    def part(self, answer: Any) -> Any:
        """Return the part of an answer that holds its numbers; raise :class:`UsageError` where it is not clear."""
        if isinstance(answer, Tensor | fx.Proxy):
            if self.key is not None and isinstance(answer, Tensor):
                raise UsageError(
                    f"output={str(self)!r} names a part of the answer, and the model answers with one tensor",
                    f"give one of {', '.join(KINDS)}",
                )
            return answer
        parts = _parts(answer)
        _refuse_boxes(answer, parts)
        if self.key is None:
            return self._usual(answer, parts)
        if self.key not in parts:
            raise UsageError(f"the model's answer has no part {self.key!r}, but {_listed(parts)}", 'give output="KEY"')
        return parts[self.key]

    def _usual(self, answer: Any, parts: Mapping[str, Any]) -> Any:
        """Return the part that is meant where no key is given."""
        called = [name for name in CALLED.get(self.kind, ("logits",)) if name in parts]
        if called:
            return parts[called[0]]
        if isinstance(answer, tuple | list) and answer:
            return answer[0]
        tensors = [part for part in parts.values() if isinstance(part, Tensor | fx.Proxy)]
        if len(tensors) == 1:
            return tensors[0]
        raise UsageError(
            f"the model answers with a {type(answer).__name__} that has {_listed(parts)}, and it is not clear which "
            f"part are the {self.kind}",
            'say which: output="KEY", or output="KEY:KIND"' if tensors else WRAP,
        )


LOGITS = Reading()
"""The reading where nothing is said."""

CLASSES = Meaning()
"""What logits stand for where an image has one of several classes."""


def _parts(answer: Any) -> dict[str, Any]:
    """Return what an answer holds, by name."""
    if isinstance(answer, Mapping):
        return {str(key): part for key, part in answer.items()}
    if isinstance(answer, tuple | list):
        names = getattr(answer, "_fields", ())
        return {**{str(number): part for number, part in enumerate(answer)}, **dict(zip(names, answer, strict=False))}
    named = {key: part for key, part in getattr(answer, "__dict__", {}).items() if not key.startswith("_")}
    return {**named, "logits": answer.logits} if hasattr(answer, "logits") else named


def _listed(parts: Mapping[str, Any]) -> str:
    return f"the parts {', '.join(parts)}" if parts else "no parts"


def _refuse_boxes(answer: Any, parts: Mapping[str, Any]) -> None:
    first = answer[0] if isinstance(answer, tuple | list) and answer else parts
    if isinstance(first, Mapping) and {"boxes", "pred_boxes"} & first.keys():
        raise UsageError(
            "the model answers with boxes of objects (detection), as many as it finds, and a map here explains one "
            "number of a whole image",
            WRAP,
        )


def readings_of(model: nn.Module) -> list[Reading]:
    """Return how a network is read at present, in the order in which it is done."""
    return [hook for hook in model._forward_hooks.values() if isinstance(hook, Reading)]


def read_alike(copy: M, model: nn.Module) -> M:
    """Read a copy made from a network's graph, which gives the part that is read, as the network is read."""
    for reading in readings_of(model):
        copy.register_forward_hook(replace(reading, key=None))
    return copy


def graph_of(model: nn.Module) -> fx.Graph:
    """Trace a network; the graph gives the part of its answer that is read."""
    return _Tracer().trace(model)


class _Tracer(fx.Tracer):
    """Traces a network whose answer may be an object that a graph cannot give."""

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        function, given = super().create_args_for_root(root_fn, is_module, concrete_args)

        def answered(*arguments: Any) -> Any:
            answer = function(*arguments)
            for reading in readings_of(self.root):
                answer = reading.part(answer)
            return answer

        return answered, given
