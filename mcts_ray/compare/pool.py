"""Pools of finished samples: best-of-n for every n, by each jump policy, without a search for each.

    pools/SET-SPLIT-POLICY-AT-KEY.npz     images (prompts, samples, H, W, 3) of a group, in the order in which they were drawn

KEY stands for all that images depend on, so pools may be shared by comparisons; another guide or judge needs only new scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcts_ray.compare.design import Arm, Design
from mcts_ray.compare.figures import best_of, best_of_each, within_sd
from mcts_ray.compare.run import Report, judged
from mcts_ray.config import SearchConfig
from mcts_ray.report.share import make_all, replacing
from mcts_ray.request import slug
from mcts_ray.reward import Reward
from mcts_ray.searcher import Searcher

GROUP = 4
MAIN, VALIDATION = "main", "validation"


@dataclass(frozen=True)
class Pool:
    """Scores (P, N) of the samples of one prompt set by one policy; `cost`: NFE of a sample."""

    policy: str
    cost: int
    guide_PN: np.ndarray
    gold_PN: np.ndarray

    @property
    def reach_PN(self) -> np.ndarray:
        """Gold of best-of-n by the guide for n = 1 ... N."""
        return best_of_each(self.guide_PN, self.gold_PN)

    @property
    def sd(self) -> dict[str, float]:
        """Standard deviation of single samples within a prompt."""
        return {"guide": within_sd(self.guide_PN), "gold": within_sd(self.gold_PN)}

    def at(self, nfe: int) -> np.ndarray:
        """Gold of best-of-n at a budget (P,): NaN if it pays for no sample or for more than there are."""
        n = nfe // self.cost
        if not 1 <= n <= self.gold_PN.shape[1]:
            return np.full(len(self.gold_PN), np.nan)
        return best_of(self.guide_PN, self.gold_PN, n)


def pools(
    design: Design, searcher: Searcher, guide: Reward, gold: Reward, folder: Path, report: Report = lambda line: None
) -> tuple[dict[str, list[Pool]], dict[str, list[Pool]]]:
    """The pools by prompt set of the prompts compared, and of those of validation; what is there already is read.

    Validation prompts have one for each policy. The prompts compared have them for the policies that searches are held against: the
    first and the best on validation prompts; for every policy where there are no validation prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def drawn(name: str, texts: list[str], split: str, policies: Sequence[Arm]) -> list[Pool]:
        return [_pool(design, searcher, guide, gold, folder, f"{slug(name)}-{split}", texts, policy, report) for policy in policies]

    validation = {name: drawn(name, texts, VALIDATION, design.policies) for name, texts in design.validation.items()}
    main = {name: drawn(name, texts, MAIN, _held_against(design, validation.get(name))) for name, texts in design.sets.items()}
    return main, validation


def _held_against(design: Design, validation: list[Pool] | None) -> list[Arm]:
    """The first policy and the best one, as far as that is known."""
    if not validation:
        return list(design.policies)
    best = best_policy(validation, design.budgets)
    return [policy for number, policy in enumerate(design.policies) if number == 0 or policy.label == best]


def best_policy(validation: list[Pool], budgets: list[int]) -> str:
    """The policy whose best-of-n has the highest gold, averaged over the budgets that all pools reach.

    Where there is no such budget, the one that reaches most with its whole pool.
    """
    shared = [b for b in budgets if all(1 <= b // pool.cost <= pool.gold_PN.shape[1] for pool in validation)]
    if shared:
        values = [np.mean([pool.at(b).mean() for b in shared]) for pool in validation]
    else:
        values = [pool.reach_PN.mean(0)[-1] for pool in validation]
    return validation[int(np.argmax(values))].policy


def _pool(
    design: Design, searcher: Searcher, guide: Reward, gold: Reward, folder: Path, label: str, texts: list[str], policy: Arm, report: Report
) -> Pool:
    config, cost = _exact(design, searcher, texts[0], policy)
    groups: dict[Path, tuple[int, list[str]]] = {}
    for at in range(0, len(texts), GROUP):
        group = texts[at : at + GROUP]
        key = _key([design.weights, design.dtype, config.model_dump(mode="json", exclude_defaults=True), group])
        groups[folder / f"{label}-{slug(policy.label)}-{at}-{key}.npz"] = (at, group)

    def draw(path: Path) -> None:
        at, group = groups[path]
        _save(path, images=_sample(searcher, group, config))
        report(f"pool of {label}, {policy.label}: {at + len(group)} of {len(texts)} prompts")

    make_all(dict.fromkeys(groups, draw), folder / ".lock", report)
    scored = _key([design.reward, design.gold, design.reward_weights])
    scores = [_scores(path, group, guide, gold, scored) for path, (_, group) in groups.items()]
    guide_PN, gold_PN = (np.concatenate(part) for part in zip(*scores))
    return Pool(policy.label, cost, guide_PN, gold_PN)


def _exact(design: Design, searcher: Searcher, text: str, policy: Arm) -> tuple[SearchConfig, int]:
    """The search of a pool whose budget pays for its samples and no more, with the jumps of an IGE's table; and NFE of a sample."""
    config = design.pool_config(policy)
    plan = searcher.backend.plan([text], config, None)
    cost = plan.searches[0].trajectory_nfe
    return config.model_copy(update={"budget": design.pool * cost, "jump_table": plan.config.jump_table}), cost


def _sample(searcher: Searcher, texts: list[str], config: SearchConfig) -> np.ndarray:
    """Images uint8 (P, N, H, W, 3) in the order in which they were drawn; a failed sample ends the run."""
    images = []
    for result in searcher.many(texts, config):
        if result.errors:
            raise RuntimeError(f"a sample of the pool failed: {result.errors[0]}")
        assert len(result.finished) == len(result.images) == config.images, "the best of more samples were no fair ones"
        order = np.argsort([c.nfe for c in result.candidates], kind="stable")  # not best first
        images.append(np.stack([np.asarray(result.images[i]) for i in order]))
    return np.stack(images)


def _scores(path: Path, texts: list[str], guide: Reward, gold: Reward, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Guide and gold (P, N) of a file of images, kept beside it."""
    kept = path.with_name(f"{path.stem}.scores-{key}.npz")
    if not kept.exists():
        with np.load(path) as data:
            images_PN = data["images"]
        guide_PN, gold_PN = (
            np.array([judged(reward, images, text) for images, text in zip(images_PN, texts, strict=True)], np.float64)
            for reward in (guide, gold)
        )
        if not np.isfinite(guide_PN).all() or not np.isfinite(gold_PN).all():
            raise RuntimeError(f"the guide or the gold judge gave no score for a sample of the pool in {path.name}")
        _save(kept, guide=guide_PN, gold=gold_PN)
    with np.load(kept) as data:
        return data["guide"], data["gold"]


def _key(value) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


def _save(path: Path, **arrays: np.ndarray) -> None:
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
