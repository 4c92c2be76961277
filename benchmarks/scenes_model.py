"""The shipped scenes model by itself: autoencoder reconstructions, and single samples of the stock DDIM pipeline.

    python -m benchmarks.scenes_model [--model scenes] [--guidance G ...] [--split test]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.common import bars, interval, write
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.scenes import prompts, verify_batch
from mcts_ray.scenes.prompts import DIFFICULTIES
from mcts_ray.scenes.render import render_arrays
from mcts_ray.scenes.train.data import captions_of, random_scenes

BATCH = 64


@torch.inference_mode()
def reconstructions(pipe, count: int, seed: int = 123) -> dict:
    """Share of rendered scenes whose reconstruction passes the verifier, by number of objects."""
    rng = np.random.default_rng(seed)
    passed, objects = [], []
    for _ in range(0, count, BATCH):
        scenes = random_scenes(BATCH, rng)
        x = torch.from_numpy(render_arrays(scenes)).permute(0, 3, 1, 2) * 2 - 1
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mean).sample
        images = ((y / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        passed += [v[1] for v in verify_batch(images, captions_of(scenes))]
        objects += (scenes.shape_NO >= 0).sum(1).tolist()
    passed, objects = np.array(passed), np.array(objects)
    by_objects = {str(k): round(float(passed[objects == k].mean()), 4) for k in (1, 2, 3)}
    return {"scenes": len(passed), "pass": round(float(passed.mean()), 4), "pass_by_objects": by_objects}


def single_samples(pipe, name: str, split: str, count: int, guidance: float, steps: int, seed: int = 0) -> dict:
    """Gold and pass of single samples by the stock pipeline, prompts of the set in turn until `count` samples."""
    texts = prompts(name, split)
    per_prompt = max(1, count // len(texts))
    asked = [t for t in texts[:count] for _ in range(per_prompt)]
    generator = torch.Generator().manual_seed(seed)
    verdicts = []
    for at in range(0, len(asked), BATCH):
        batch = asked[at : at + BATCH]
        out = pipe(batch, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="np")
        verdicts += verify_batch((out.images * 255).round().astype(np.uint8), batch)
    gold = np.array([v[0] for v in verdicts]).reshape(-1, per_prompt).mean(1)
    passed = np.array([v[1] for v in verdicts], float).reshape(-1, per_prompt).mean(1)
    return {"prompts": len(gold), "samples": len(asked), "gold": interval(gold), "pass": interval(passed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--samples", type=int, default=480, help="of each prompt set")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--name", default="scenes_model", help="of the results file")
    args = parser.parse_args()
    pipe = load_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    rows = {
        f"guidance {g:g}": {d: single_samples(pipe, d, args.split, args.samples, g, args.steps) for d in DIFFICULTIES}
        for g in args.guidance
    }
    asked = {"easy": [0.85], "medium": [0.25, 0.5], "hard": [0.03, 0.15]}
    panels = {d: {g: row[d]["pass"] for g, row in rows.items()} for d in DIFFICULTIES}
    bars(args.name, {f"{d}: pass of single samples": values for d, values in panels.items()}, {f"{d}: pass of single samples": v for d, v in asked.items()})
    parts = {n: sum(p.numel() for p in getattr(pipe, n).parameters()) for n in ("unet", "vae", "text_encoder")}
    results = {"split": args.split, "steps": args.steps, "sampler": "stock DDIM, eta 0", "parameters": parts}
    write(args.name, {**results, "autoencoder": reconstructions(pipe, 1024), "single_sample": rows})


if __name__ == "__main__":
    main()
