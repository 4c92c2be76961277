"""Training of the scenes scorer: on renders only, with hard negatives by wrong facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from scipy import ndimage

from ..render import Arrays, render_arrays
from ..scorer import Scorer, ScorerNetwork
from .autoencoder import to_tensor
from .corrupt import corrupt
from .data import captions_of, random_scenes
from .loop import Recipe, fit
from .text import LENGTH, tokenizer

RECIPE = Recipe("scorer", steps=1200, batch=64, lr=1.5e-3, ema=0.998, warmup=300)
COUNTS = (0.1, 0.4, 0.5)
THROUGH_AUTOENCODER = 0.15
LATENT_NOISE = 0.35


def train(out: Path, autoencoder: AutoencoderKL, recipe: Recipe = RECIPE, **options) -> tuple[Scorer, float]:
    """Minimise the cross entropy between the predicted and the constructed share of facts that hold.

    Renders are blended with their uncorrupted twin, blurred and made noisy, and some go through the autoencoder
    with noise on the latents, so that the flaws of generated images are not wholly unknown to the scorer.
    """
    torch.manual_seed(recipe.seed)
    words = tokenizer()
    model = ScorerNetwork(len(words), LENGTH)

    def loss_of_batch(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        caption = random_scenes(recipe.batch, rng, COUNTS)
        scene, share = corrupt(caption, rng)
        images = to_tensor(_soil(render_arrays(scene), caption, share, rng))
        through = int(recipe.batch * THROUGH_AUTOENCODER)
        with torch.no_grad():
            latents = autoencoder.encode(images[:through]).latent_dist.mean
            strength = LATENT_NOISE * torch.rand(through, 1, 1, 1) / autoencoder.config.scaling_factor
            images[:through] = autoencoder.decode(latents + strength * torch.randn_like(latents)).sample.clamp(-1, 1)
        tokens = words(captions_of(caption), padding="max_length", return_tensors="pt").input_ids
        logit, target = model(images, tokens), torch.from_numpy(share)
        error = (logit.sigmoid() - target).abs().mean().item()
        entropy = F.binary_cross_entropy(target, target)
        return F.binary_cross_entropy_with_logits(logit, target) - entropy, {"error": error}

    network, seconds = fit(recipe, model, loss_of_batch, out, **options)
    return _standardised(Scorer(network, words)), seconds


def _standardised(scorer: Scorer, n: int = 1024) -> Scorer:
    """Set `center` and `scale` from scores of scenes that the training has not seen."""
    rng = np.random.default_rng(1)
    caption = random_scenes(n, rng, COUNTS)
    images = (render_arrays(corrupt(caption, rng)[0]) * 255 + 0.5).astype(np.uint8)
    scores = scorer(images, captions_of(caption))
    scorer.center, scorer.scale = round(float(scores.mean()), 4), round(float(scores.std()), 4)
    return scorer


def _soil(image: np.ndarray, caption: Arrays, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend one in five wrong images with the render of its caption, blur half of all, and add noise."""
    n = len(image)
    blended = np.flatnonzero((rng.random(n) < 0.2) & (share < 1))
    weight = rng.uniform(0.5, 0.8, (len(blended), 1, 1, 1)).astype(np.float32)
    image[blended] = weight * image[blended] + (1 - weight) * render_arrays(caption.rows(blended))
    for i in np.flatnonzero(rng.random(n) < 0.5):
        sigma = rng.uniform(0.3, 1.1)
        image[i] = ndimage.gaussian_filter(image[i], (sigma, sigma, 0))
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 0.03, (n, 1, 1, 1)).astype(np.float32)
    return np.clip(image + noise, 0, 1)
