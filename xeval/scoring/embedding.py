"""Makes what the report draws besides numbers: images for its gallery, and the encoder's features of five classes.

The features are those of figure 1 of the ExCon paper: five equally spaced classes, every image once as it is and once
with only the most relevant 60 % of its pixels kept. Distances in the picture carry no meaning, so the same points are
also measured in the original feature space.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xeval.checkpoints.weightfiles import write_tensors
from xeval.models import Classifier
from xeval.perturb.masks import kept
from xeval.runtime.files import write_json
from xeval.runtime.provenance import package_version
from xeval.scoring.gallery import pictures_of, write_pictures

if TYPE_CHECKING:
    from xeval.scoring.scorer import Scorer

CLASSES = 5
PER_CLASS = 100
KEEP = 0.6
NEIGHBOURS = 5
SCHEMA = "xeval.artifacts/1"

Floats = NDArray[np.float64]


def write_artifacts(out: Path, scorer: Scorer) -> dict[str, float | None]:
    """Write the features and the images of the gallery; return the numbers measured in feature space."""
    write_pictures(out, pictures_of(scorer))
    plan = scorer.plan
    chosen = spaced_classes(len(plan.info.classes))
    positions = sample_positions(plan.split.labels, plan.chosen, chosen)
    if not positions or not plan.loaded.meaning.calibrated:  # --limit has left no image, or these are no classes
        return dict.fromkeys(("separation_ratio", "knn_accuracy", "silhouette"))
    positions, original, masked = _sound(positions, *_features(scorer, positions))
    if not positions:  # no image has finite features
        return dict.fromkeys(("separation_ratio", "knn_accuracy", "silhouette"))
    labels = np.array([chosen.index(int(plan.split.labels[i])) for i in positions], np.int64)
    features = torch.cat([original, masked])
    points, settings = tsne(features.double().numpy())
    numbers = embedding_numbers(original.double().numpy(), masked.double().numpy(), labels)
    write_tensors(
        out / "artifacts.safetensors",
        {
            "tsne.points": torch.from_numpy(points),
            "tsne.labels": torch.from_numpy(np.concatenate([labels, labels])),
            "tsne.masked": torch.tensor([0] * len(positions) + [1] * len(positions), dtype=torch.uint8),
            "features": features.half(),
        },
    )
    write_json(
        out / "artifacts.json",
        {
            "schema": SCHEMA,
            "classes": [plan.info.classes[c] for c in chosen],
            "tsne": settings,
            "mask_keep": KEEP,
            "image_ids": [plan.split.ids[i] for i in positions],
            "embedding": numbers,
        },
    )
    return numbers


def spaced_classes(classes: int) -> list[int]:
    """Return at most five equally spaced class numbers: 0, 20, 40, 60, 80 of 100."""
    count = min(CLASSES, classes)
    return [j * classes // count for j in range(count)]


def sample_positions(labels: NDArray[np.int64], chosen: NDArray[np.int64], classes: list[int]) -> list[int]:
    """Return the first 100 scored images of each class in the order of the split, the same for every checkpoint."""
    return [int(i) for c in classes for i in chosen[labels[chosen] == c][:PER_CLASS]]


def _features(scorer: Scorer, positions: list[int]) -> tuple[Tensor, Tensor]:
    """Return pooled features (M, dim) of the images and of their masked versions, on the host."""
    encode, plain, hidden = encoder(scorer.plan.loaded.model), [], []
    for start in range(0, len(positions), 64):
        scene, _ = scorer.scene(positions[start : start + 64])
        explained = scorer.maps.explain(scene, scorer.plan.protocol.explainers[0])
        keep = explained.ranking < kept(KEEP, scene.pixels)
        masked = torch.where(keep.unsqueeze(1), scene.images, scene.fill)
        with torch.no_grad():
            plain.append(encode(scene.images).cpu())
            hidden.append(encode(masked).cpu())
    return torch.cat(plain), torch.cat(hidden)


def _sound(positions: list[int], original: Tensor, masked: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """The images whose features are finite, as they are and masked: neither t-SNE nor a distance knows others."""
    finite = original.isfinite().all(1) & masked.isfinite().all(1)
    return (
        [position for position, ok in zip(positions, finite.tolist(), strict=True) if ok],
        original[finite],
        masked[finite],
    )


def encoder(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function images → features (N, dim).

    Our classifiers give their pooled features; other models give the input of their last linear layer, or their
    flattened output where they have none.
    """
    if isinstance(model, Classifier):
        return model.features
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        return lambda images: torch.flatten(model(images), 1)

    def features(images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = linear[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            model(images)
        finally:
            handle.remove()
        return seen[-1].flatten(1)

    return features


def tsne(features: Floats, seed: int = 0) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return a two-dimensional t-SNE of features (M, dim) and its settings (van der Maaten, Hinton, JMLR 2008)."""
    from sklearn.manifold import TSNE

    perplexity = float(max(1, min(30, (len(features) - 1) // 3)))
    settings = {
        "perplexity": perplexity,
        "seed": seed,
        "init": "pca",
        "library": f"scikit-learn {package_version('scikit-learn')}",
    }
    if len(features) < 4 or features.shape[1] < 2 or not features.std(0).any():
        return np.zeros((len(features), 2), np.float32), {**settings, "init": "none: fewer than 4 different points"}
    made = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return made.astype(np.float32), settings


def embedding_numbers(original: Floats, masked: Floats, labels: NDArray[np.int64]) -> dict[str, float | None]:
    """Return three numbers from the original feature space, where distances, unlike in the picture, have a meaning.

    separation_ratio: mean ‖f(x) − f(x masked)‖ over the mean distance between class centroids (small = masked images
    stay with their class); knn_accuracy: leave-one-out accuracy of the 5 nearest neighbours; silhouette of the classes.
    They are None where a class has too few images.
    """
    present = np.unique(labels)
    if len(present) < 2 or len(labels) <= NEIGHBOURS:
        return {"separation_ratio": None, "knn_accuracy": None, "silhouette": None}
    from sklearn.metrics import silhouette_score

    centroids = np.stack([original[labels == c].mean(0) for c in present])
    gaps = np.linalg.norm(centroids[:, None] - centroids[None], axis=-1)[np.triu_indices(len(present), 1)].mean()
    moved = np.linalg.norm(original - masked, axis=1).mean()
    return {
        "separation_ratio": float(moved / gaps) if gaps > 0 else None,
        "knn_accuracy": knn_accuracy(original, labels),
        "silhouette": float(silhouette_score(original, labels)) if len(labels) > len(present) else None,
    }


def knn_accuracy(features: Floats, labels: NDArray[np.int64], k: int = NEIGHBOURS) -> float:
    """Return the leave-one-out accuracy of a majority vote of the k nearest other points (ties: the smallest class)."""
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    votes = labels[np.argsort(distance, axis=1, kind="stable")[:, :k]]
    predicted = np.array([np.bincount(row).argmax() for row in votes])
    return float((predicted == labels).mean())
