"""Carry out a design: every cell in groups of prompts, each kept as JSON when it ends, so that a second call goes on,
or one beside the first takes a part.

    groups/SET-ARM-TIMESx-SEED-AT.json    a row for each search of a group

A row: guide and gold of the best image and of all that are returned, cost, diversity, and the anytime curve, which is
[NFE, guide, gold] of every new best image as it came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mcts_ray.compare.design import Arm, Design
from mcts_ray.compare.judge import VERIFIER, as_reward, diversity
from mcts_ray.report.run import write_json
from mcts_ray.report.share import make_all
from mcts_ray.request import slug
from mcts_ray.result import SearchResult
from mcts_ray.reward import Reward, resolve_reward
from mcts_ray.search.base import Candidate
from mcts_ray.searcher import Searcher

Row = dict[str, Any]
Report = Callable[[str], None]


def gold_judge(design: Design, device: str = "cpu") -> Reward:
    """The held-out judge of a design."""
    return resolve_reward(as_reward(design.gold), device)


def run(design: Design, searcher: Searcher, gold: Reward, out: Path, report: Report = lambda line: None) -> list[Row]:
    """The rows of all searches; those of groups that are there already are read. Seeds are outermost, then budgets."""
    groups: dict[Path, Callable[[Path], None]] = {}
    for seed in range(design.seeds):
        for times in design.times:
            for name, texts in design.sets.items():
                for number, arm in enumerate(design.arms):
                    label = f"{slug(name)}-{number:02d}-{slug(arm.label)}-{times}x-{seed}"
                    for at in range(0, len(texts), design.group):
                        make = partial(_group, design, searcher, gold, arm, (name, times, seed, at), report)
                        groups[out / "groups" / f"{label}-{at}.json"] = make
    make_all(groups, out / ".lock", report)
    return [row for path in groups for row in json.loads(path.read_text(encoding="utf-8"))]


def _group(
    design: Design, searcher: Searcher, gold: Reward, arm: Arm, place: tuple[str, int, int, int], report: Report, path: Path
) -> None:
    """One group of prompts by one arm, budget and seed."""
    name, times, seed, at = place
    texts = design.sets[name]
    results = searcher.many(texts[at : at + design.group], design.config(arm, times, seed))
    cell = {"set": name, "arm": arm.label, "times": times, "seed": seed}
    found = [{**cell, "prompt": at + i, **row_of(r, gold, design, arm)} for i, r in enumerate(results)]
    write_json(path, found)
    report(f"{name}, {arm.label}, {times}x, seed {seed}: {at + len(found)} of {len(texts)} prompts")


def row_of(result: SearchResult, gold: Reward, design: Design, arm: Arm) -> Row:
    """What is kept of one search. `busy_seconds`: its share of denoising, decoding and rewarding, whoever ran beside it.

    An oracle arm has seen gold and no guide, so its guide is not known. `passed` is known for the verifier alone. A search
    that prunes has its counts too.
    """
    returned = list(zip(result.candidates, result.images))[: design.images]
    images = dict(zip((c.node for c in result.candidates), result.images))
    records = _records([c for c in result.finished if c.node in images])  # an image may have been lost with its node
    nodes = list(dict.fromkeys([*(c.node for c, _ in returned), *(c.node for c in records)]))
    golds = dict(zip(nodes, judged(gold, [images[node] for node in nodes], result.prompt)))
    best_gold = golds[result.best.node] if result.best else None
    guides = [None if arm.oracle else c.reward for c, _ in returned]
    return {
        "text": result.prompt,
        "guide": guides[0] if guides else None,
        "gold": best_gold,
        "passed": float(best_gold == 1) if design.gold == VERIFIER and best_gold is not None else None,
        "guides": guides,
        "golds": [golds[c.node] for c, _ in returned],
        "diversity": diversity([np.asarray(image) for _, image in returned]),
        "nfe": result.ledger.nfe,
        "decodes": result.ledger.decodes,
        "model_forwards": result.ledger.model_forwards,
        "busy_seconds": result.ledger.denoiser_seconds + result.scoring_seconds,
        "failed_units": len(result.errors),
        **{f"pruning_{what}": count for what, count in result.pruning.items()},
        "curve": [[c.nfe, None if arm.oracle else c.reward, golds[c.node]] for c in records],
    }


def _records(finished: Sequence[Candidate]) -> list[Candidate]:
    """Those that were better than all before."""
    records: list[Candidate] = []
    for candidate in finished:
        if not records or candidate.reward > records[-1].reward:
            records.append(candidate)
    return records


def judged(reward: Reward, images: Sequence, prompt: str) -> list[float | None]:
    """A score of each image; None where the reward gives none."""
    if not len(images):
        return []
    return [one.score for one in reward.score(np.stack([np.asarray(image) for image in images]), [prompt] * len(images))]
