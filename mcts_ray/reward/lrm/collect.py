"""Pairs from the generator itself: several images of each prompt, compared by an image reward.

    DIR/manifest.jsonl    the pairs (`mcts_ray.reward.lrm.pairs`), written at the end
    DIR/scores.jsonl      a line for each prompt: its images with their scores, so that pairs can be made again without a model
    DIR/images/           PNG
    DIR/collect.json      what the images depend on
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from mcts_ray.checks import check_size, collection_prompts, default_reward
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import image_size, resolve_model
from mcts_ray.reward.lrm.layout import read_json

MANIFEST, SCORES = "manifest.jsonl", "scores.jsonl"
GROUP, RENDERED = 16, 256  # prompts whose images are sampled together, captions whose images are rendered together
MARGIN = 0.25  # of the scores' standard deviation within prompts: images closer than that are a tie

Report = Callable[[str], None]


def run(
    model: str,
    reward: str | None,
    prompts: Sequence[str] | None,
    out: Path,
    *,
    images: int = 8,
    count: int | None = None,
    renders: int = 0,
    levels: int = 20,
    guidance: float | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    report: Report = lambda line: None,
) -> Path:
    """Make `images` images of each prompt by plain sampling (DDIM, `levels` steps), score them by `reward` and write the pairs to `out`.

    prompts: None for the training prompts of scenes, medium and hard in turn. count: the first of them only. renders: for scenes, that
    many further captions whose images are rendered, facts right and wrong. The same call goes on where an earlier one was cut off, and
    one with more of either adds to it. Raises ValueError with one sentence for what cannot be, before anything heavy is loaded, and where
    the reward scores no image of a whole group of prompts.
    """
    reward = default_reward(model, reward)
    texts = collection_prompts(model, reward, prompts, count)
    if renders and model != "scenes":
        raise ValueError(f"only the model of scenes has renders, not {model}")
    if images < 2:
        raise ValueError(f"a pair needs two images of a prompt, not {images}")
    found = resolve_model(model)
    height, width = image_size(found)
    check_size(reward, height, width)
    guidance = SearchConfig(guidance=guidance).own_guidance(model == "scenes")
    depends = {"model": model, "reward": reward, "images": images, "levels": levels, "guidance": guidance, "seed": seed}
    _open(out, depends)
    if threads:
        import torch

        torch.set_num_threads(threads)

    def sampler():
        from mcts_ray.reward.lrm.sample import Sampler

        return Sampler(found, reward, device, levels, guidance, height, width)

    def renderer():
        from mcts_ray.diffusion.device import resolve_device
        from mcts_ray.reward.lrm.renders import Renderer

        return Renderer(reward, str(resolve_device(device)))

    _add(out, texts, sampler, images, seed, report)
    _add(out, _rendered(renders, seed), renderer, images, seed, report, rendered=True)
    records = scores_of(out)
    pairs = pair_up(records)
    _replace(out / MANIFEST, pairs)
    report(f"{len(pairs)} pairs of {len(records)} prompts, {sum(pair['tie'] for pair in pairs)} of them ties")
    return out


def _add(out: Path, texts: Sequence[str], load: Callable, images: int, seed: int, report: Report, rendered: bool = False) -> None:
    """Images and scores of the texts that are not there yet, a group at a time; `load` makes what makes them, if it is needed."""
    done = {record["prompt"] for record in scores_of(out) if record["scores"]}
    missing = [text for text in dict.fromkeys(texts) if text not in done]
    make, at_once = load() if missing else None, RENDERED if rendered else GROUP
    for at in range(0, len(missing), at_once):
        group = missing[at : at + at_once]
        _write_group(out, group, *make(group, images, seed))
        report(f"{at + len(group)} of {len(missing)} {'captions rendered' if rendered else 'prompts sampled'}")


def pair_up(records: Sequence[dict]) -> list[dict]:
    """All pairs within each prompt, as lines of a manifest; a tie where scores differ by no more than `MARGIN` standard deviations.

    The standard deviation is that within prompts, pooled over all of them, so that a prompt whose images are all alike gives ties.
    """
    records = [record for record in records if len(record["scores"]) > 1]
    spread = np.sqrt(np.mean([np.var(record["scores"]) for record in records])) if records else 0.0
    pairs = []
    for record in records:
        for (image_a, score_a), (image_b, score_b) in combinations(zip(record["images"], record["scores"]), 2):
            better, worse = (image_a, image_b) if score_a >= score_b else (image_b, image_a)
            tie = bool(abs(score_a - score_b) <= MARGIN * spread)
            pairs.append({"prompt": record["prompt"], "better": better, "worse": worse, "tie": tie})
    return pairs


def _rendered(count: int, seed: int) -> list[str]:
    if not count:
        return []
    from mcts_ray.reward.lrm.renders import captions

    return captions(count, seed)


def _open(out: Path, depends: dict) -> None:
    """Make the folder; ValueError if it holds images that were made in another way, or does not tell in which."""
    file = out / "collect.json"
    if not file.is_file() and ((out / MANIFEST).exists() or any(out.glob("**/*.parquet"))):
        raise ValueError(f"{out} holds pairs that were not made by --collect; collect into another folder")
    (out / "images").mkdir(parents=True, exist_ok=True)
    if file.is_file() and (before := read_json(str(out), file)) != depends:
        what = ", ".join(name for name in depends if before.get(name) != depends[name])
        raise ValueError(f"{out} holds images that were made with another {what}; collect into another folder")
    file.write_text(json.dumps(depends, indent=2) + "\n")


def scored(folder: Path, **trajectories: str) -> list[dict]:
    """The records of `scores_of`; ValueError if there are none, or made with another `model` or `reward` than some trajectories."""
    file = folder / "collect.json"
    made, records = (read_json(str(folder), file), scores_of(folder)) if file.is_file() else ({}, [])
    for name, theirs in trajectories.items() if made else ():
        if made.get(name) != theirs:
            raise ValueError(f"the images in {folder} are of {name} {made.get(name)}, the trajectories of {theirs}; make others")
    if not records:
        raise ValueError(f"{folder} holds no scored images; make some with `mcts-ray train reward --kind lrm --collect`")
    return records


def scores_of(out: Path) -> list[dict]:
    """A record for each prompt: it, the files of its images, and their scores. ValueError naming a line that holds none."""
    file = out / SCORES
    if not file.is_file():
        return []
    return [_record(line, f"line {number} of {file}") for number, line in enumerate(file.read_text("utf-8").split("\n"), 1) if line]


def _record(line: str, where: str) -> dict:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"prompt", "images", "scores"} <= set(record):
        raise ValueError(f"{where} holds no prompt with images and scores; collect into another folder")
    return record


def _write_group(out: Path, group: Sequence[str], images_PNHWC: np.ndarray, score_PN: np.ndarray) -> None:
    """Images first, then scores.jsonl as a whole, renamed at the end: a group is there in full, or is made again.

    A prompt without a score is left out, so that it is tried again.
    """
    records = scores_of(out)
    for prompt, images, scores in zip(group, images_PNHWC, score_PN, strict=True):
        if not np.isfinite(scores).any():
            continue
        names = [f"images/{len(records):05d}-{index:02d}.png" for index in range(len(images))]
        for name, image in zip(names, images):
            Image.fromarray(image).save(out / name)
        finite = [(name, float(score)) for name, score in zip(names, scores) if np.isfinite(score)]
        records.append({"prompt": prompt, "images": [name for name, _ in finite], "scores": [score for _, score in finite]})
    _replace(out / SCORES, records)


def _replace(file: Path, records: Sequence[dict]) -> None:
    """Write JSON lines to a temporary file and rename it."""
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    partial.replace(file)
