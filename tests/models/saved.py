"""A tiny image classifier of transformers, built from a configuration, and the folder that save_pretrained writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SIDE, CLASSES = 16, 10
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def vit(channels: int = 3, classes: int = CLASSES) -> Any:
    """A vision transformer of 4×4 patches; logits large enough that maps differ."""
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=4,
        num_channels=channels,
        num_labels=classes,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config).eval()


def saved(folder: Path, channels: int = 3, classes: int = CLASSES) -> Path:
    """A folder with config.json, model.safetensors and preprocessor_config.json."""
    vit(channels, classes).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "image_mean": MEAN[:channels],
        "image_std": STD[:channels],
        "size": {"height": SIDE, "width": SIDE},
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
