"""One pool of finished samples per test prompt, with guide and gold of each: what best-of-n and guide figures come from.

    python -m benchmarks.pool [--split test] [--samples 64] [--prompts 24 60 60]

Resumable: prompts are run in groups, whose images are kept under runs/pool-SPLIT-KEY/ as they end, KEY standing for the
pipeline's weights and the settings, so that images of older weights are never mixed in. The scores go to
results/pool-SPLIT.npz; another scorer needs no new images.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, ROOT, bars, write
from mcts_ray import SearchConfig, Searcher
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.scenes import prompts, verify_batch
from mcts_ray.scenes.prompts import DIFFICULTIES
from mcts_ray.scenes.scorer import Scorer

GROUP = 4


@dataclass(frozen=True)
class Pool:
    """Scores of the samples of one prompt set, each (prompts P, samples N)."""

    guide_PN: np.ndarray
    gold_PN: np.ndarray
    passed_PN: np.ndarray


def load(split: str = "test") -> dict[str, Pool]:
    """The committed pool of each prompt set."""
    path = RESULTS / f"pool-{split}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing; make it with: python -m benchmarks.pool --split {split}")
    with np.load(path) as data:
        return {d: Pool(*(data[f"{d}_{part}"] for part in ("guide", "gold", "passed"))) for d in DIFFICULTIES}


def sample(searcher: Searcher, texts: list[str], n: int, levels: int, guidance: float, seed: int = 0, k: int = 1) -> np.ndarray:
    """Images uint8 (P, N, H, W, 3) of n independent ODE trajectories for each prompt, in the order in which they were drawn."""
    budget = n * -(-levels // k)
    config = SearchConfig(
        algorithm="best-of-n", k=k, budget=budget, levels=levels, guidance=guidance, images=n, seed=seed, in_flight=64
    )
    images = []
    for result in searcher.many(texts, config):
        order = np.argsort([c.nfe for c in result.candidates], kind="stable")  # not best first
        images.append(np.stack([np.asarray(result.images[i]) for i in order]))
    return np.stack(images)


def score(images_PNHWC: np.ndarray, texts: list[str], guide: Scorer) -> tuple[np.ndarray, ...]:
    """Guide, gold and passed (P, N)."""
    rows = []
    for images_NHWC, text in zip(images_PNHWC, texts, strict=True):
        asked = [text] * len(images_NHWC)
        verdicts = verify_batch(images_NHWC, asked)
        rows.append((guide(images_NHWC, asked), [v[0] for v in verdicts], [v[1] for v in verdicts]))
    guides, golds, passes = zip(*rows)
    return np.array(guides, np.float32), np.array(golds, np.float32), np.array(passes, bool)


def key(searcher: Searcher, *settings: float) -> str:
    """What the images depend on beside their prompts, as eight hex digits: the pipeline's weights and the settings."""
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=4)
    for file in sorted(Path(resolve_model(searcher.model).source).rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--prompts", type=int, nargs=3, default=(24, 60, 60), help="of easy, medium and hard")
    parser.add_argument("--levels", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--model", default="scenes")
    args = parser.parse_args()
    searcher = Searcher.from_pretrained(args.model, reward="jpeg")  # the cheapest: every sample is kept whatever its reward
    guide = Scorer.load()
    folder = ROOT / "runs" / f"pool-{args.split}-{key(searcher, args.levels, args.guidance)}"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, count in zip(DIFFICULTIES, args.prompts, strict=True):
        texts = prompts(name, args.split)[:count]
        groups = []
        for at in range(0, count, GROUP):
            group = texts[at : at + GROUP]
            path = folder / f"{name}-{at}-{len(group)}-{args.samples}.npz"
            if not path.exists():
                _save(path, sample(searcher, group, args.samples, args.levels, args.guidance))
                print(f"{name}: {min(at + GROUP, count)} of {count} prompts", flush=True)
            with np.load(path) as data:
                groups.append(score(data["images"], group, guide))
        for part, values in zip(("guide", "gold", "passed"), zip(*groups), strict=True):
            arrays[f"{name}_{part}"] = np.concatenate(values)
    np.savez_compressed(RESULTS / f"pool-{args.split}.npz", **arrays)
    single = {
        name: {"prompts": count, "gold": float(arrays[f"{name}_gold"].mean()), "pass": float(arrays[f"{name}_passed"].mean())}
        for name, count in zip(DIFFICULTIES, args.prompts, strict=True)
    }
    bars(f"pool-{args.split}", {what: {name: row[what] for name, row in single.items()} for what in ("gold", "pass")})
    drawn = {"samples": args.samples, "levels": args.levels, "guidance": args.guidance, "seed": 0}
    write(f"pool-{args.split}", {**drawn, "single_sample": single})


def _save(path: Path, images: np.ndarray) -> None:
    temporary = path.with_name("unfinished.npz")
    np.savez_compressed(temporary, images=images)
    temporary.replace(path)


if __name__ == "__main__":
    main()
