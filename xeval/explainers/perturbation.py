"""Compute occlusion, LIME and KernelSHAP through captum: they hide parts of the image and observe the logit.

Hidden parts become 0, the data set's mean colour. The methods use the input only and ignore ``layer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xeval.explainers import chunks
from xeval.explainers.base import explainer
from xeval.explainers.gradients import quiet

GRID = 8
SAMPLES = 512
SEED = 0


@explainer("occlusion", units="location", citation="Zeiler and Fergus, ECCV 2014")
def occlusion(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """How far the logit falls when a window that slides over the image hides a part of it.

        A = mean over the windows that cover a pixel of logit(x) − logit(x with the window at 0)

    Windows have the side round(min(H, W)/8) and step by half of it, which takes about 225 forward passes per square
    image. The method is computed by captum's Occlusion.
    """
    from captum.attr import Occlusion

    side = max(1, round(min(images.shape[-2:]) / 8))
    step = max(1, side // 2)
    method = Occlusion(model)
    with torch.no_grad():
        found: Tensor = method.attribute(
            images,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], step, step),
            baselines=0,
            target=targets,
            perturbations_per_eval=max(1, chunks.at_once(images, chunks.FORWARD_PIXELS) // len(images)),
        )
    return found[:, :1].clone()


@explainer("lime", units="location", citation="Ribeiro et al., KDD 2016")
def lime(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """The weights of a linear model that predicts the logit from which cells of an 8×8 grid are shown.

        A = argmin_w Σ_j exp(−d_j²/2) (logit_j − w·z_j − w₀)² + ‖w‖²,  z_j ∈ {0, 1}⁶⁴ the cells shown in sample j

    There are 512 samples, the same for every image. Each cell is shown with probability ½; the others are 0. The
    regression is ridge regression with α = 1, as in the authors' code for images, under captum's kernel, in which d is
    the cosine distance to the whole image. It is computed by captum's Lime; the map is N×1×8×8.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    return _on_grid(lambda: Lime(model, interpretable_model=SkLearnRidge(alpha=1.0)), images, targets)


@explainer("kernel-shap", units="location", citation="Lundberg and Lee, NeurIPS 2017")
def kernel_shap(model: nn.Module, _layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Shapley values of the cells of an 8×8 grid: the mean contribution of a cell over the orders of showing cells.

        A_i = Σ over sets S without i of |S|! (63 − |S|)! / 64! · (logit(S and i) − logit(S))
        Σ A = logit(x) − logit(0)

    The values are estimated by weighted regression on 512 coalitions, the same for every image; cells that are not
    shown are 0. They are computed by captum's KernelShap; the map is N×1×8×8.
    """
    from captum.attr import KernelShap

    return _on_grid(lambda: KernelShap(model), images, targets)


def cells(height: int, width: int) -> Tensor:
    """Return the grid cell's number for every pixel, int64 H×W; images below 8 pixels have a cell for each pixel."""
    rows, columns = min(GRID, height), min(GRID, width)
    y, x = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return y[:, None] * columns + x[None, :]


def _on_grid(method: Callable[[], Any], images: Tensor, targets: Tensor) -> Tensor:
    """Fit one regression per image, each from the same seed, so that a map depends on its image alone."""
    height, width = images.shape[-2:]
    mask = cells(height, width).to(images.device)[None, None]
    options = {
        "baselines": 0,
        "feature_mask": mask,
        "n_samples": SAMPLES,
        "perturbations_per_eval": min(SAMPLES, chunks.at_once(images, chunks.FORWARD_PIXELS)),
        "return_input_shape": False,
    }
    found = []
    for image, target in zip(torch.split(images, 1), torch.split(targets, 1), strict=True):
        with quiet(), seeded(), torch.no_grad():
            found.append(method().attribute(image, target=target, **options).reshape(-1))
    return torch.stack(found).reshape(len(images), 1, min(GRID, height), min(GRID, width)).to(images)


@contextmanager
def seeded() -> Iterator[None]:
    """Seed torch's global generator on the host, from which captum draws, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield
