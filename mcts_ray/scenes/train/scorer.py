"""Training of the scenes scorer: on renders only, with hard negatives by wrong facts."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from scipy import ndimage
from transformers import CLIPTokenizer

from mcts_ray.fitting.ahead import Ahead
from mcts_ray.fitting.loop import Recipe, fit

from ..render import Arrays, render_arrays
from ..scorer import Scorer, ScorerNetwork
from .corrupt import corrupt, twin
from .data import captions_of, random_scenes
from .facts import FACT_TOKENS, FACTS_OF, facts_of, spread
from .text import LENGTH, tokenizer

RECIPE = Recipe("scorer", steps=12000, batch=64, lr=1.5e-3, ema=0.998, warmup=300)
COUNTS = (0.1, 0.4, 0.5)
BLOCK = 16  # batches whose scenes are laid out together: rejection sampling costs much less for many scenes at once
DECODED = 0.4  # share of a batch that has been through the autoencoder, drawn from a pool made once
DECODED_POOL = 8192
LATENT_NOISE = 0.35
MIXED = 0.35  # share of images in which one object is part another, as generated ones are
PLACE = 2.0  # weight of the error of places


def train(out: Path, autoencoder: AutoencoderKL, recipe: Recipe = RECIPE, **options) -> tuple[Scorer, float]:
    """Minimise the cross entropy of each fact of the caption, which holds or not by construction, and, after the first look at
    the image, the squared error of where its words say their objects are.

    Objects are mixed with others, renders blurred and made noisy, and some have been through the autoencoder with noise on
    the latents, so that the flaws of generated images are not wholly unknown to the scorer.
    """
    torch.manual_seed(recipe.seed)
    words = tokenizer()
    model = ScorerNetwork(len(words), LENGTH)
    model.states_fact[words.convert_tokens_to_ids(FACT_TOKENS)] = 1
    model.names_shape[words.convert_tokens_to_ids(FACTS_OF[1])] = 1
    model.relates[words.convert_tokens_to_ids(FACTS_OF[2])] = 1
    decoded = _decoded_pool(autoencoder, words, recipe.seed, min(DECODED_POOL, recipe.steps * recipe.batch))
    from_pool = int(recipe.batch * DECODED)
    fresh = recipe.batch - from_pool

    block = Ahead(lambda number: _examples(fresh * BLOCK, np.random.default_rng([recipe.seed, 11, number]), words))

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        at = step % BLOCK * fresh
        drawn = block(step // BLOCK).rows(slice(at, at + fresh))
        picked = decoded.rows(torch.from_numpy(rng.integers(0, len(decoded.holds), from_pool)))
        images, tokens, holds_NL, at_NL3 = (torch.cat(pair) for pair in zip(astuple(drawn), astuple(picked)))
        word_NLD, patch_NPD = model.read(images.float() / 127.5 - 1, tokens)
        logit_NL, weight_NL = model.judge(tokens, word_NLD, patch_NPD)
        found_NL = at_NL3[..., 2]
        miss = ((model.where(word_NLD) - at_NL3[..., :2]).square().sum(-1) * found_NL).sum() / found_NL.sum()
        entropy = F.binary_cross_entropy_with_logits(logit_NL, holds_NL, weight_NL, reduction="sum") / weight_NL.sum()
        wrong = ((logit_NL > 0) != (holds_NL > 0.5)) * weight_NL
        shares = {"facts": weight_NL, "relations": model.relates[tokens]}
        metrics = {f"wrong_{name}": ((wrong * of).sum() / of.sum()).item() for name, of in shares.items()}
        return entropy + PLACE * miss, metrics | {"misplaced": miss.item()}

    network, seconds = fit(recipe, model, loss_of_batch, out, **options)
    return _standardised(Scorer(network, words)), seconds


@dataclass(frozen=True)
class Examples:
    """Images uint8 (N, 3, H, W), caption tokens (N, L), 1 where the fact of a token holds, else 0 (N, L), and x, y in [-1, 1] of
    the object of a colour or shape whose facts hold, with a 1 behind them (N, L, 3; 0 elsewhere)."""

    images: torch.Tensor
    tokens: torch.Tensor
    holds: torch.Tensor
    at: torch.Tensor

    def rows(self, index: slice | torch.Tensor) -> Examples:
        return Examples(self.images[index], self.tokens[index], self.holds[index], self.at[index])


def _examples(n: int, rng: np.random.Generator, words: CLIPTokenizer) -> Examples:
    """Renders in which some of the caption's facts are wrong, objects mixed, blurred and made noisy."""
    caption = random_scenes(n, rng, COUNTS)
    scene = corrupt(caption, rng)
    facts = facts_of(caption, scene)
    images_NHWC = (soil(scene, rng) * 255 + 0.5).astype(np.uint8)
    tokens = words(captions_of(caption), padding="max_length", return_tensors="pt").input_ids
    ids = words.convert_tokens_to_ids
    right = (facts.colour_NO & facts.shape_NO).astype(np.float32)
    places = (right * (2 * facts.x_NO - 1), right * (2 * facts.y_NO - 1), right)
    at = np.stack([sum(spread(tokens.numpy(), ids(kind), value) for kind in FACTS_OF[:2]) for value in places], -1)
    return Examples(
        images=torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous(),
        tokens=tokens,
        holds=torch.from_numpy(facts.at_tokens(tokens.numpy(), ids)),
        at=torch.from_numpy(at.astype(np.float32)),
    )


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
    images = (render_arrays(corrupt(caption, rng)) * 255 + 0.5).astype(np.uint8)
    scores = scorer(images, captions_of(caption))
    scorer.center, scorer.scale = round(float(scores.mean()), 4), round(float(scores.std()), 4)
    return scorer


def soil(scene: Arrays, rng: np.random.Generator) -> np.ndarray:
    """Renders (N, H, W, 3) with `MIXED` objects, half of them blurred, with noise."""
    n = len(scene)
    image = render_arrays(scene)
    mixed = np.flatnonzero(rng.random(n) < MIXED)
    image[mixed] = _mix(image[mixed], scene.rows(mixed), rng)
    for i in np.flatnonzero(rng.random(n) < 0.5):
        sigma = rng.uniform(0.3, 1.1)
        image[i] = ndimage.gaussian_filter(image[i], (sigma, sigma, 0))
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, 0.03, (n, 1, 1, 1)).astype(np.float32)
    return np.clip(image + noise, 0, 1)


def _mix(image: np.ndarray, scene: Arrays, rng: np.random.Generator) -> np.ndarray:
    """One object of each scene made the lesser part another: its twin shines through, or shows on a disc at the object's rim."""
    n, side = len(scene), image.shape[1]
    other, which = twin(scene, rng)
    x, y, radius = (value[np.arange(n), which, None, None] for value in (scene.x_NO, scene.y_NO, scene.radius_NO))
    angle, reach = rng.uniform(0, 2 * np.pi, (n, 1, 1)), rng.uniform(0.4, 0.95, (n, 1, 1)) * radius
    pixel = (np.arange(side, dtype=np.float32) + 0.5) / side
    off = np.hypot(pixel - x - radius * np.cos(angle), pixel[:, None] - y - radius * np.sin(angle))
    disc = np.clip((reach - off) * side + 0.5, 0, 1)
    weight = np.where(rng.random((n, 1, 1)) < 0.5, disc, rng.uniform(0.1, 0.45, (n, 1, 1)))[..., None].astype(np.float32)
    return (1 - weight) * image + weight * render_arrays(other)
