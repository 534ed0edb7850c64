"""Makes a classifier for an encoder without one: a head is fitted on stored features, alike for every encoder.

How the head is trained changes explanation quality more than the pre-training does (S. Gairola et al., "How to probe:
simple yet effective techniques for improving post-hoc explanations", ICLR 2025), so encoders of one comparison share
this probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xeval.checkpoints.card import RunCard, Selection, read_card, write_card
from xeval.checkpoints.facts import one_line
from xeval.checkpoints.folder import MANIFEST, require_no_training, run_name
from xeval.checkpoints.identity import tensors_sha256
from xeval.checkpoints.load import card_of, load_encoder, own_of
from xeval.checkpoints.normalization import KEY, NormalizeName, Wish, same_constants
from xeval.checkpoints.own import open_as_known, own_source, own_wish
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import Dataset, DatasetInfo, holdout
from xeval.data import normalize as normalized
from xeval.data.base import Size
from xeval.engine import pick_device
from xeval.errors import UsageError
from xeval.models import Classifier, ModelSpec, frozen_eval
from xeval.models.parts import Parts
from xeval.models.sources import apart
from xeval.runtime.files import digest, require_writable, writable_directory
from xeval.runtime.locks import locked
from xeval.runtime.progress import Progress, Silent, told_if_slow
from xeval.runtime.provenance import provenance
from xeval.runtime.validation import require_seed
from xeval.training.batches import Pool, make_pool
from xeval.training.probe import Probe, lbfgs
from xeval.training.state import saving

HeadKind: TypeAlias = Literal["linear", "centroid", "knn"]
HELD_OUT = 0.2
BATCH = 256


def probe_encoder(
    path: Path,
    dataset: str,
    *,
    out: Path,
    data_root: Path | None = None,
    arch: str | None = None,
    image_size: Size | None = None,
    head: HeadKind = "linear",
    normalize_features: bool = False,
    weight_decay: float = 1e-4,
    method: str | None = None,
    seed: int = 0,
    device: str = "auto",
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    normalize: NormalizeName | None = None,
    rehash: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fit a head on the training split and write a run directory that can be scored.

    ``linear`` is logistic regression by L-BFGS to convergence; ``centroid`` scores a class by the cosine between the
    features and the mean of its unit features; ``knn`` lets the 20 nearest training images vote. The last two work on
    unit features, in training and in scoring alike. 20 % of the training images, stratified and seeded, are held out to
    record an accuracy. Images are normalised with the constants that the file carries, else with ``mean`` and ``std``
    or those that ``normalize`` names, else with the data set's published ones.

    Raises:
        UsageError: nothing says how images were normalised, or the file says otherwise; the folder holds another run.
    """
    require_seed(seed)
    name = one_line("--method", method or path.stem)
    require_writable(out)
    wish = Wish.of(mean=mean, std=std, normalize=normalize)
    own = own_of(path, arch)
    opened = open_as_known(dataset, data_root, image_size, own)
    if own is not None and not wish.given:
        wish = own_wish(own)
    split, info = opened.split("train"), _normalized(path, opened, wish)
    reporter: Progress = progress or Silent()
    for note in split.notes:
        reporter.say(f"note: {note}")
    with told_if_slow(reporter, "hashing the images"):
        split.manifest(rehash=rehash)
    fit, held = holdout(split.labels, HELD_OUT, seed)
    where = pick_device(device)
    unit = normalize_features or head != "linear"
    bank = len(fit) if head == "knn" else 0
    model, spec = load_encoder(path, info, arch=arch, normalize_features=unit, bank=bank)
    directory = out / run_name(dataset, name, seed)
    settings: dict[str, Any] = {"head": head, "normalize": unit, "weight_decay": weight_decay, "encoder": path.name}
    if wish.given or not same_constants(info, split.info):
        settings[KEY] = wish.source if wish.given else "those that the encoder was trained with"
    if own is not None and wish == own_wish(own):
        settings[KEY] = own_source(spec.arch)
    card = _card(directory.name, name, seed, info, split.manifest(), spec, settings, _sha256(model, spec))
    _require_own(directory, card)
    model.to(where)
    parts = apart(model, spec)
    with frozen_eval(model):
        features, labels = _features(parts, make_pool(split, fit, where), info)
    parts.head.load_state_dict(_fitted(parts.head, head, features, labels, len(info.classes), weight_decay))
    with frozen_eval(model):
        accuracy = _accuracy(model, make_pool(split, held, where), info)
    reached = {"best_accuracy": accuracy, "last_accuracy": accuracy}
    card = card.model_copy(update={"selection": card.selection.model_copy(update=reached)})
    with locked(writable_directory(directory)), saving(directory):
        _require_own(directory, card)
        for weights in ("best", "last"):
            write_tensors(directory / f"{weights}.safetensors", model.state_dict())
        write_card(directory, card, ["best.safetensors", "last.safetensors"])
    return directory


def _normalized(path: Path, opened: Dataset, wish: Wish) -> DatasetInfo:
    """Return the data set under the constants that the encoder was trained with."""
    card = card_of(path)
    if card is not None:
        return wish.for_trained(opened.info, card.dataset)
    return wish.for_plain_weights(opened.info, measured=opened.measured)


def _card(
    name: str,
    method: str,
    seed: int,
    info: DatasetInfo,
    manifest: str,
    spec: ModelSpec,
    settings: dict[str, Any],
    encoder_sha256: str,
) -> RunCard:
    """Return the card of a probe whose accuracy is not known yet."""
    return RunCard(
        name=name,
        method=method,
        seed=seed,
        recipe_name=f"probe-{settings['head']}",
        recipe=settings,
        recipe_hash=digest(settings),
        dataset=info,
        train_manifest=manifest,
        model=spec,
        selection=Selection(select_on="heldout", best_epoch=1, best_accuracy=None, last_accuracy=None),
        provenance={**provenance(), "encoder_sha256": encoder_sha256},
    )


def _sha256(model: nn.Module, spec: ModelSpec) -> str:
    """Return the hash of the encoder's tensors."""
    head = f"{apart(model, spec).head_name}."
    return tensors_sha256({name: one for name, one in model.state_dict().items() if not name.startswith(head)})


def _require_own(directory: Path, card: RunCard) -> None:
    """Raise :class:`UsageError` where a folder holds another run than this head on this encoder."""
    require_no_training(directory)
    if (directory / MANIFEST).exists() and _content(read_card(directory)) != _content(card):
        raise UsageError(
            f"{directory} already holds a run, and not of this encoder and head",
            "choose another folder with --out, or another name with --method",
        )


def _content(card: RunCard) -> dict[str, Any]:
    """Return what makes a probe the one it is; the accuracy follows from it."""
    content = card.to_json()
    own = {key: value for key, value in content.items() if key not in ("files", "provenance", "selection")}
    return own | {"encoder": card.provenance.get("encoder_sha256")}


def _fitted(
    layer: nn.Module, kind: HeadKind, features: Tensor, labels: Tensor, classes: int, weight_decay: float
) -> dict[str, Tensor]:
    """Fit the head and return the tensors of its layer, which may have no bias."""
    if kind == "knn":
        return {"bank": features, "labels": labels}
    biased = getattr(layer, "bias", None) is not None
    found = centroids(features, labels, classes) if kind == "centroid" else None
    found = found or lbfgs(features, labels, classes, weight_decay=weight_decay, biased=biased)
    return {name: part for name, part in found._asdict().items() if part is not None and (biased or name != "bias")}


def centroids(features: Tensor, labels: Tensor, classes: int) -> Probe:
    """Return the nearest-centroid head by cosine: unit class means of unit features as weights, no bias."""
    unit = F.normalize(features)
    sums = torch.zeros(classes, features.shape[1], device=features.device).index_add_(0, labels, unit)
    return Probe(F.normalize(sums), torch.zeros(classes, device=features.device))


def _features(parts: Classifier | Parts, pool: Pool, info: DatasetInfo) -> tuple[Tensor, Tensor]:
    """Return the input of the head (N, dim), of unit length where the model normalises it, and the labels (N,)."""
    found: list[Tensor] = []
    with torch.no_grad():
        for batch in pool.batches(BATCH):
            features = parts.features(normalized(batch.images, info))
            found.append(F.normalize(features) if parts.normalize_features else features)
    return torch.cat(found), pool.labels


def _accuracy(model: nn.Module, pool: Pool, info: DatasetInfo) -> float:
    with torch.no_grad():
        right = [
            (model(normalized(batch.images, info)).argmax(1) == batch.labels).sum() for batch in pool.batches(BATCH)
        ]
    return float(torch.stack(right).sum()) / len(pool)
