"""One command from nothing to the shipped weights: train the parts in order and export them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from mcts_ray.fitting.loop import Progress, Recipe

from ..scorer import WEIGHTS
from . import autoencoder, scorer, unet
from .text import tokenizer

PARTS = ("autoencoder", "unet", "scorer")


def run(
    part: str = "all",
    out: Path = Path("runs/scenes"),
    seed: int = 0,
    resume: bool = True,
    steps: int | None = None,
    threads: int | None = None,
    report: Callable[[str, Progress], None] | None = None,
) -> Path:
    """Train `part` (or all) into `out` and return the folder. `unet` and `scorer` read the autoencoder of `out`, or the
    shipped one where `out` has none. `steps` overrides the recipe's. Raises ValueError for an unknown part."""
    if part not in (*PARTS, "all"):
        raise ValueError(f"There is no part '{part}' to train; use one of {', '.join(PARTS)} or all.")
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for name in PARTS if part == "all" else (part,):
        recipe = globals()[name].RECIPE
        recipe = replace(recipe, seed=seed, steps=steps or recipe.steps)
        options = {"resume": resume, "report": (lambda p, name=name: report(name, p)) if report else None}
        seconds = _PART[name](out, recipe, options)
        _note(out, recipe, seconds)
        if name == "unet":
            _note(out, unet.second_stage(recipe), 0)
    return out


def _autoencoder(out: Path, recipe: Recipe, options: dict) -> float:
    model, seconds = autoencoder.train(out, recipe, **options)
    model.register_to_config(scaling_factor=autoencoder.latent_scale(model))
    model.half().save_pretrained(out / "pipeline" / "vae")
    return seconds


def _unet(out: Path, recipe: Recipe, options: dict) -> float:
    vae = load_autoencoder(out)
    model, seconds = unet.train(out, vae, recipe, **options)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer(),
        unet=model.unet,
        scheduler=unet.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out / "pipeline")
    return seconds


def _scorer(out: Path, recipe: Recipe, options: dict) -> float:
    model, seconds = scorer.train(out, load_autoencoder(out), recipe, **options)
    model.save(out)
    return seconds


_PART = {"autoencoder": _autoencoder, "unet": _unet, "scorer": _scorer}


def load_autoencoder(out: Path) -> AutoencoderKL:
    """The autoencoder of `out`, else the shipped one, fp32 and frozen."""
    folder = out / "pipeline" if (out / "pipeline" / "vae").exists() else WEIGHTS / "pipeline"
    if not (folder / "vae").exists():
        raise ValueError(f"there is no autoencoder in {out} yet; train it first with --part autoencoder.")
    return AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32).eval().requires_grad_(False)


def _note(out: Path, recipe: Recipe, seconds: float) -> None:
    """Keep what made each part in `training.json`, for the model card (the second stage's time is the first one's)."""
    path = out / "training.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes[recipe.name] = {**asdict(recipe), "seconds": round(seconds), "torch": torch.__version__}
    path.write_text(json.dumps(notes, indent=2) + "\n")
