"""The LAION aesthetic predictor, version 2 (Schuhmann 2022, improved-aesthetic-predictor): how people would rate an image from 1
to 10, whatever its prompt.

Five linear layers, with nothing between them, on the unit embedding of an image by CLIP ViT-L/14.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcts_ray.reward.weights import Clip, Weights, find_clip

if TYPE_CHECKING:
    from mcts_ray.reward.clip import Towers

NAME = "aesthetic"
MODEL = "openai/clip-vit-large-patch14"
HEAD = "trl-lib/ddpo-aesthetic-predictor"  # on the hub, a copy of sac+logos+ava1-l14-linearMSE.pth
FILES = ("sac+logos+ava1-l14-linearMSE.pth", "aesthetic-model.pth")

Layers = list[tuple[np.ndarray, np.ndarray]]


def find(source: str | None = None) -> tuple[Path, Clip]:
    """Where head and CLIP are; ValueError if they are not there. A source without a CLIP of its own gets OpenAI's."""
    weights = Weights(NAME, source or HEAD)
    head = weights.need(*(FILES if source else reversed(FILES)))
    return head, find_clip(NAME, source if source and weights.file("config.json") else MODEL, MODEL)


class Aesthetic:
    """The predicted rating of each image. layers: (weight (out, in), bias (out,)) from the embedding to one number."""

    forwards = 1
    # Rough: means of 5.4 (SD3, TPDM, arXiv 2412.01243) to 5.8 (FLUX, RBF, arXiv 2503.19385) are published, a spread is not.
    center = 5.5
    scale = 0.5

    def __init__(self, towers: Towers, layers: Layers) -> None:
        self.towers, self.layers = towers, layers

    @classmethod
    def load(cls, device: str, source: str | None = None) -> Aesthetic:
        """The published weights, or those of a folder or hub id. ValueError with one sentence if they cannot be loaded."""
        file, clip = find(source)
        from mcts_ray.reward.clip import load_clip, load_tensors

        layers = read_layers(load_tensors(NAME, file), file.name)
        towers = load_clip(NAME, clip, device)
        reads = layers[0][0].shape[1]
        if reads != towers.width:
            raise ValueError(f"reward {NAME!r}: {file.name} reads {reads} features, and {clip.model} gives {towers.width}")
        return cls(towers, layers)

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Scores (N,) of uint8 images (N, H, W, 3); the prompts do not matter."""
        if not len(images_NHWC):
            return np.zeros(0)
        x_ND = self.towers.embed_images(images_NHWC).cpu().numpy()
        for weight, bias in self.layers:
            x_ND = x_ND @ weight.T + bias
        return x_ND[:, 0]


def read_layers(state: Any, file: str) -> Layers:
    """The layers `layers.I.weight` and `layers.I.bias` in order of I, which leaves out the numbers of dropout layers."""
    names = state.keys() if isinstance(state, dict) else ()
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"layers\.(\d+)\.weight", str(name))))
    try:
        layers = [tuple(state[f"layers.{i}.{part}"].float().numpy() for part in ("weight", "bias")) for i in numbers]
    except (KeyError, AttributeError):
        layers = []
    if not _fit(layers):
        wanted = "linear layers `layers.0.weight`, `layers.0.bias`, ... from an embedding to one number"
        raise ValueError(f"reward {NAME!r}: {file} does not hold {wanted}")
    return layers


def _fit(layers: Layers) -> bool:
    """Whether each layer reads what the one before it gives, and the last gives one number."""
    if any(weight.ndim != 2 or bias.shape != weight.shape[:1] for weight, bias in layers):
        return False
    outs, ins = [weight.shape[0] for weight, _ in layers], [weight.shape[1] for weight, _ in layers]
    return bool(layers) and outs == [*ins[1:], 1]
