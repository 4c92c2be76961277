"""HPS v2.1, Wu et al. 2023 (arXiv 2306.09341): a CLIP ViT-H trained on human rankings of generated images, in open_clip's layout.

open_clip needs torchvision, which must fit the installed torch; the image processor is the one of all rewards here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcts_ray.reward.weights import Weights

if TYPE_CHECKING:
    import torch

    from mcts_ray.reward.clip import Towers

NAME = "hps"
MODEL = "xswu/HPSv2"
FILE = "HPS_v2.1_compressed.pt"
ARCHITECTURE = "ViT-H-14"


def find(source: str | None = None) -> Weights:
    """Where the weights are; ValueError if they are not there."""
    weights = Weights(NAME, source or MODEL)
    weights.need(FILE, download=False)
    return weights


class Hps:
    """cos(image, prompt), about .25; the paper prints it times 100."""

    forwards = 1
    # Center: mean of the version 2.1 benchmark for Stable Diffusion 2.0 (26.38; v1.4 25.35, SDXL 30.63). Scale: rough, no
    # spread is published.
    center = 0.264
    scale = 0.03

    def __init__(self, towers: Towers) -> None:
        self.towers = towers

    @classmethod
    def load(cls, device: str, source: str | None = None) -> Hps:
        """The published weights, or those of a folder or hub id. ValueError with one sentence if they cannot be loaded."""
        weights = find(source)
        from mcts_ray.reward.clip import load_tensors

        open_clip = _open_clip()
        file = weights.need(FILE)
        config = weights.file("open_clip_config.json") if source else None
        return cls(_towers(open_clip, _architecture(open_clip, config), load_tensors(NAME, file), file, device))

    def __call__(self, images_NHWC: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Scores (N,) of uint8 images (N, H, W, 3)."""
        return self.towers.cosine(images_NHWC, prompts)


def _open_clip() -> Any:
    try:
        import open_clip
    except Exception as error:  # a torchvision that does not fit torch raises RuntimeError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        advice = "it needs a torchvision that fits torch"
        raise ValueError(f"reward {NAME!r}: open_clip cannot be imported ({reason}); {advice}") from error
    return open_clip


def _architecture(open_clip: Any, file: Path | None) -> dict[str, Any]:
    """Arguments of `open_clip.CLIP`: those in open_clip's own file for a hub folder, else those of the published model."""
    if file is None:
        return open_clip.get_model_config(ARCHITECTURE)
    from mcts_ray.reward.clip import loading

    return loading(NAME, str(file), lambda: json.loads(file.read_text(encoding="utf-8"))["model_cfg"])


def _towers(open_clip: Any, architecture: dict[str, Any], checkpoint: dict[str, Any], file: Path, device: str) -> Towers:
    from transformers import CLIPImageProcessorPil

    from mcts_ray.reward.clip import Towers, loading, pixels_by, precision

    model = open_clip.CLIP(**architecture)
    # not strict: the checkpoint was written by an old open_clip, with buffers that it has since ceased to save
    report = loading(NAME, file.name, lambda: model.load_state_dict(checkpoint["state_dict"], strict=False))
    if report.missing_keys:
        raise ValueError(f"reward {NAME!r}: {file.name} lacks {report.missing_keys[0]}, so it is not for this architecture")
    dtype = precision(device)
    model = model.to(device, dtype).eval().requires_grad_(False)
    tokenize = open_clip.SimpleTokenizer(context_length=model.context_length)
    side = architecture["vision_cfg"]["image_size"]
    preprocess = pixels_by(CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}))
    where = model.logit_scale.device

    def texts(prompts: list[str]) -> torch.Tensor:
        return model.encode_text(tokenize(prompts).to(where))

    width = architecture["embed_dim"]
    return Towers(model.encode_image, texts, lambda images: preprocess(on_square(images)), width, where, dtype)


def on_square(images_BHWC: np.ndarray) -> np.ndarray:
    """Images in the middle of a black square: this model was trained on whole images, not on their centre."""
    height, width = images_BHWC.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(images_BHWC, ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0)))
