"""The two towers of a CLIP, as all rewards of its family use them: unit embeddings of images and of prompts, in batches.

Legend: N images or prompts, B of them in one batch, H x W pixels, C = 3 channels, D features. Imports torch; the rewards
import this module when they are loaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mcts_ray.diffusion.quiet import quiet
from mcts_ray.reward.weights import Clip

BATCH = 32  # images per forward
PROMPTS = 1024  # prompts whose embeddings are kept


class Towers:
    """What embeds images and prompts, from whatever library the model is.

    images: pixels (B, C, H, W) to features (B, D); texts: prompts to features (B, D), cut at the model's context length as
    CLIP does; preprocess: uint8 images (B, H, W, 3) to pixels (B, C, H, W). width: D. dtype: of the pixels.
    """

    def __init__(
        self,
        images: Callable[[torch.Tensor], torch.Tensor],
        texts: Callable[[list[str]], torch.Tensor],
        preprocess: Callable[[np.ndarray], torch.Tensor],
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        logit_scale: float = 1.0,
    ) -> None:
        self._images, self._texts, self._preprocess = images, texts, preprocess
        self.width, self.device, self.dtype, self.logit_scale = width, device, dtype, logit_scale
        self._known: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def embed_images(self, images_NHWC: np.ndarray) -> torch.Tensor:
        """Unit embeddings (N, D), fp32, of uint8 images; N is at least 1."""
        batches = [self._preprocess(images_NHWC[at : at + BATCH]) for at in range(0, len(images_NHWC), BATCH)]
        return torch.cat([F.normalize(self._images(pixels.to(self.device, self.dtype)).float(), dim=-1) for pixels in batches])

    @torch.inference_mode()
    def embed_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (N, D), fp32. Each prompt is encoded once and alone, so that its embedding hangs on no other."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if len(self._known) + len(new) > PROMPTS:
            self._known, new = {}, list(dict.fromkeys(prompts))
        for prompt in new:
            self._known[prompt] = F.normalize(self._texts([prompt])[0].float(), dim=-1)
        return torch.stack([self._known[prompt] for prompt in prompts])

    def cosine(self, images_NHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Cosine (N,) between each image and its prompt."""
        check_pairs(images_NHWC, prompts)
        if not len(prompts):
            return np.zeros(0)
        return (self.embed_images(images_NHWC) * self.embed_texts(prompts)).sum(-1).cpu().double().numpy()


def check_pairs(images_NHWC: np.ndarray, prompts: Sequence[str]) -> None:
    """One prompt for each image, which is RGB in uint8."""
    if len(images_NHWC) != len(prompts):
        raise ValueError(f"there are {len(images_NHWC)} images but {len(prompts)} prompts")
    if len(prompts) and (images_NHWC.ndim != 4 or images_NHWC.shape[-1] != 3 or images_NHWC.dtype != np.uint8):
        raise ValueError(f"images must be uint8 (N, H, W, 3), not {images_NHWC.dtype} {images_NHWC.shape}")


def precision(device: str | torch.device) -> torch.dtype:
    """fp16 on a GPU, as these models are published and used; fp32 elsewhere."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def load_clip(reward: str, clip: Clip, device: str | torch.device) -> Towers:
    """A `CLIPModel` with its tokenizer and image processor. ValueError with one sentence if they cannot be loaded."""
    with quiet():
        model, processor, tokenizer = loading(reward, clip.model, lambda: _from_pretrained(clip, precision(device)))
    model = model.to(device).eval().requires_grad_(False)
    side, crop = model.config.vision_config.image_size, processor.crop_size
    if (crop["height"], crop["width"]) != (side, side):
        sizes = f"{clip.processor} makes images of {crop['height']}x{crop['width']}, and {clip.model} reads {side}x{side}"
        raise ValueError(f"reward {reward!r}: {sizes}")
    length = model.config.text_config.max_position_embeddings

    def texts(prompts: list[str]) -> torch.Tensor:
        tokens = tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt").to(model.device)
        return _features(model.get_text_features(**tokens))

    def images(pixels_BCHW: torch.Tensor) -> torch.Tensor:
        return _features(model.get_image_features(pixel_values=pixels_BCHW))

    scale = model.logit_scale.float().exp().item()
    return Towers(images, texts, pixels_by(processor), model.config.projection_dim, model.device, model.dtype, scale)


def pixels_by(processor: Any) -> Callable[[np.ndarray], torch.Tensor]:
    """Preprocessing by an image processor of transformers."""

    def preprocess(images_BHWC: np.ndarray) -> torch.Tensor:
        return processor(list(images_BHWC), return_tensors="pt", input_data_format="channels_last").pixel_values

    return preprocess


def load_tensors(reward: str, file: Path) -> dict[str, Any]:
    """A file that `torch.save` has made of tensors and plain containers; nothing in it is run."""

    def load() -> dict[str, Any]:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's own sentence advises to open it all the same
            raise ValueError("it is no file of tensors alone, and others are not opened") from None

    return loading(reward, str(file), load)


def loading(reward: str, what: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; ValueError with the first line of what it raises."""
    try:
        return load()
    except Exception as error:  # transformers, safetensors and torch have no common one for a file that is not what it should be
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"reward {reward!r}: {what} cannot be loaded: {reason}") from error


def _from_pretrained(clip: Clip, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model, report = CLIPModel.from_pretrained(clip.model, dtype=dtype, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:  # transformers itself would go on with random numbers in their place
        raise ValueError(f"the weights lack {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    return model, CLIPImageProcessorPil.from_pretrained(clip.processor), CLIPTokenizer.from_pretrained(clip.processor)


def _features(output: Any) -> torch.Tensor:
    """Projected features (B, D): from transformers 5 on they are the `pooler_output` of the towers."""
    return getattr(output, "pooler_output", output)
