"""The verifier's limits: right on rendered scenes, strict on one false fact, blurred or not, and fast.

    python -m benchmarks.verifier [--scenes 2000]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy import ndimage

from benchmarks.common import bars, write
from mcts_ray.scenes import COLOURS, RELATIONS, SHAPES, Scene, parse, verify_batch
from mcts_ray.scenes.render import Arrays, render_arrays
from mcts_ray.scenes.train.corrupt import with_extra
from mcts_ray.scenes.train.data import captions_of, random_scenes

BLUR = (0.0, 0.6, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    scenes = random_scenes(args.scenes, rng)
    captions = captions_of(scenes)
    distinct = np.array([len(set(parse(c).objects)) == len(parse(c).objects) for c in captions])
    renders = {"true": render_arrays(scenes)}
    renders["extra object"] = render_arrays(with_extra(scenes, np.ones(args.scenes, bool), rng))
    renders["count"] = render_arrays(_without_one(scenes, rng))
    asked = {name: captions for name in renders}
    for fact in ("colour", "shape", "relation"):
        renders[fact] = renders["true"]
        asked[fact] = [_falsify(c, fact, rng) for c in captions]
    rows = {}
    for sigma in BLUR:
        for name, image in renders.items():
            image = ndimage.gaussian_filter(image, (0, sigma, sigma, 0)) if sigma else image
            # Two equal objects make every relation between them and its opposite true alike: no single truth to test.
            use = [i for i, c in enumerate(asked[name]) if c and (name != "relation" or distinct[i])]
            image = (image[use] * 255 + 0.5).astype(np.uint8)
            began = time.perf_counter()
            verdicts = verify_batch(image, [asked[name][i] for i in use])
            took = time.perf_counter() - began
            passed = np.mean([v[1] for v in verdicts])
            right = passed if name == "true" else 1 - passed
            rows[f"{name}, blur {sigma}"] = {
                "images": len(use),
                "right": round(float(right), 5),
                "ms_per_image": round(1e3 * took / len(use), 3),
            }
    wrong = {name: 1 - row["right"] for name, row in rows.items()}
    speed = {name: row["ms_per_image"] for name, row in rows.items()}
    bars("verifier", {"share judged wrong": wrong, "ms an image": speed}, {"share judged wrong": [0.005], "ms an image": [1.0]})
    write("verifier", {"seed": args.seed, "blur_unit": "sigma in pixels of 64", "rows": rows})


def _without_one(scenes: Arrays, rng: np.random.Generator) -> Arrays:
    count = (scenes.shape_NO >= 0).sum(1)
    shape = scenes.shape_NO.copy()
    shape[np.arange(len(shape)), rng.integers(0, count)] = -1
    return replace(scenes, shape_NO=shape)


def _falsify(caption: str, fact: str, rng: np.random.Generator) -> str | None:
    """The caption with one colour, shape or relation replaced by another; None where it has no relation."""
    scene = parse(caption)
    objects, relations = list(scene.objects), list(scene.relations)
    if fact == "relation":
        if not relations:
            return None
        at = rng.integers(len(relations))
        relations[at] = str(rng.choice([r for r in RELATIONS if r != relations[at]]))
    else:
        at = rng.integers(len(objects))
        words = {"colour": COLOURS, "shape": SHAPES}[fact]
        objects[at] = replace(objects[at], **{fact: str(rng.choice([w for w in words if w != getattr(objects[at], fact)]))})
    return Scene(tuple(objects), tuple(relations)).caption


if __name__ == "__main__":
    main()
