"""Training of the scenes scorer: on renders only, with hard negatives by wrong facts."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from scipy import ndimage
from transformers import CLIPTokenizer

from ..render import Arrays, render_arrays
from ..scorer import Scorer, ScorerNetwork
from .corrupt import FACT_TOKENS, corrupt
from .data import captions_of, random_scenes
from .loop import Recipe, fit
from .text import LENGTH, tokenizer

RECIPE = Recipe("scorer", steps=8000, batch=64, lr=1.5e-3, ema=0.998, warmup=300)
COUNTS = (0.1, 0.4, 0.5)
BLOCK = 16  # batches whose scenes are laid out together: rejection sampling costs much less for many scenes at once
DECODED = 0.4  # share of a batch that has been through the autoencoder, drawn from a pool made once
DECODED_POOL = 16_384
LATENT_NOISE = 0.35


def train(out: Path, autoencoder: AutoencoderKL, recipe: Recipe = RECIPE, **options) -> tuple[Scorer, float]:
    """Minimise the cross entropy of each fact of the caption, which holds or not by construction.

    Renders are blended with their uncorrupted twin, blurred and made noisy, and some have been through the autoencoder
    with noise on the latents, so that the flaws of generated images are not wholly unknown to the scorer.
    """
    torch.manual_seed(recipe.seed)
    words = tokenizer()
    model = ScorerNetwork(len(words), LENGTH)
    model.states_fact[words.convert_tokens_to_ids(FACT_TOKENS)] = 1
    decoded = _decoded_pool(autoencoder, words, recipe.seed, min(DECODED_POOL, recipe.steps * recipe.batch))
    from_pool = int(recipe.batch * DECODED)
    fresh = recipe.batch - from_pool

    @lru_cache(maxsize=1)
    def block(number: int) -> Examples:
        return _examples(fresh * BLOCK, np.random.default_rng([recipe.seed, 11, number]), words)

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        at = step % BLOCK * fresh
        drawn = block(step // BLOCK).rows(slice(at, at + fresh))
        picked = decoded.rows(torch.from_numpy(rng.integers(0, len(decoded.holds), from_pool)))
        images, tokens, holds_NL = (torch.cat(pair) for pair in zip(astuple(drawn), astuple(picked)))
        logit_NL, weight_NL = model.facts(images.float() / 127.5 - 1, tokens)
        entropy = F.binary_cross_entropy_with_logits(logit_NL, holds_NL, weight_NL, reduction="sum") / weight_NL.sum()
        wrong = ((logit_NL > 0) != (holds_NL > 0.5)) * weight_NL
        return entropy, {"wrong_facts": (wrong.sum() / weight_NL.sum()).item()}

    network, seconds = fit(recipe, model, loss_of_batch, out, **options)
    return _standardised(Scorer(network, words)), seconds


@dataclass(frozen=True)
class Examples:
    """Images uint8 (N, 3, H, W), caption tokens (N, L), and 1 where the fact of a token holds, else 0 (N, L)."""

    images: torch.Tensor
    tokens: torch.Tensor
    holds: torch.Tensor

    def rows(self, index: slice | torch.Tensor) -> Examples:
        return Examples(self.images[index], self.tokens[index], self.holds[index])


def _examples(n: int, rng: np.random.Generator, words: CLIPTokenizer) -> Examples:
    """Renders in which some of the caption's facts are wrong, blended, blurred and made noisy."""
    caption = random_scenes(n, rng, COUNTS)
    scene, facts = corrupt(caption, rng)
    images_NHWC = (_soil(render_arrays(scene), caption, facts.all_N, rng) * 255 + 0.5).astype(np.uint8)
    tokens = words(captions_of(caption), padding="max_length", return_tensors="pt").input_ids
    holds = torch.from_numpy(facts.at_tokens(tokens.numpy(), words.convert_tokens_to_ids))
    return Examples(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous(), tokens, holds)


@torch.no_grad()
def _decoded_pool(autoencoder: AutoencoderKL, words: CLIPTokenizer, seed: int, n: int) -> Examples:
    """Examples that have been through the autoencoder, with noise on the latents."""
    generator = torch.Generator().manual_seed(seed)
    examples = _examples(n, np.random.default_rng([seed, 12]), words)
    for at in range(0, n, 64):
        images = examples.images[at : at + 64].float() / 127.5 - 1
        latents = autoencoder.encode(images).latent_dist.mean
        strength = LATENT_NOISE * torch.rand(len(images), 1, 1, 1, generator=generator) / autoencoder.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        decoded = autoencoder.decode(latents + strength * noise).sample.clamp(-1, 1)
        examples.images[at : at + 64] = ((decoded + 1) * 127.5).round().byte()
    return examples


def _standardised(scorer: Scorer, n: int = 1024) -> Scorer:
    """Set `center` and `scale` from scores of scenes that the training has not seen."""
    rng = np.random.default_rng(1)
    caption = random_scenes(n, rng, COUNTS)
    images = (render_arrays(corrupt(caption, rng)[0]) * 255 + 0.5).astype(np.uint8)
    scores = scorer(images, captions_of(caption))
    scorer.center, scorer.scale = round(float(scores.mean()), 4), round(float(scores.std()), 4)
    return scorer


def _soil(image: np.ndarray, caption: Arrays, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend one in five wrong images with the render of its caption, blur half of all, and add noise."""
    n = len(image)
    blended = np.flatnonzero((rng.random(n) < 0.2) & ~right)
    weight = rng.uniform(0.5, 0.8, (len(blended), 1, 1, 1)).astype(np.float32)
    image[blended] = weight * image[blended] + (1 - weight) * render_arrays(caption.rows(blended))
    for i in np.flatnonzero(rng.random(n) < 0.5):
        sigma = rng.uniform(0.3, 1.1)
        image[i] = ndimage.gaussian_filter(image[i], (sigma, sigma, 0))
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 0.03, (n, 1, 1, 1)).astype(np.float32)
    return np.clip(image + noise, 0, 1)
