"""Trajectories for a value head: which ones, checked before anything heavy is loaded, collected shard by shard, gone on with.

Half of the trajectories of each prompt are deterministic (DDIM), half noisy (eta = 1, DDPM); `mcts_ray.reward.value.record` walks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcts_ray.checks import check_size, collection_prompts, default_reward
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.resolve import image_size, resolve_model

if TYPE_CHECKING:
    from mcts_ray.reward.value.record import Collector

TRAJECTORIES = 8  # of each prompt
GRID = 8  # patches along a side, to which larger maps are averaged
SHARD = 64 * 2**20  # bytes
LIMIT = 8.0  # GB of all shards

Report = Callable[[str], None]


def run(
    model: str,
    reward: str | None,
    prompts: Sequence[str] | None,
    out: Path,
    *,
    trajectories: int = TRAJECTORIES,
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    report: Report = lambda line: None,
    levels: int = 30,
    at: Sequence[int] | None = None,
    taps: Sequence[str] | None = None,
    grid: int = GRID,
    guidance: float | None = None,
    limit: float = LIMIT,
) -> Path:
    """Walk `trajectories` trajectories of each prompt and write their states and rewards to `out` (`mcts_ray.reward.value.data`).

    prompts: None for the training prompts of scenes, medium and hard in turn. count: the first of them only. levels: T. at: levels whose
    states are noted; None: ten, one from each tenth of the levels, drawn for each prompt. taps: maps to note; None: those that suit
    the model. grid: patches along a side to which larger maps are averaged. guidance: None for the model's own. limit: GB that may be
    written.
    The same call goes on where an earlier one was cut off. Raises ValueError with one sentence for what cannot be.
    """
    reward = default_reward(model, reward)
    texts = collection_prompts(model, reward, prompts, count)
    found = resolve_model(model)
    size = image_size(found)
    check_size(reward, *size)
    _check_amounts(trajectories, levels, at)
    config = SearchConfig(levels=levels, guidance=guidance, seed=seed).resolved(model == "scenes", size, reward)
    depends = {"model": model, "reward": reward, "levels": levels, "at": at and list(at), "guidance": config.guidance, "seed": seed}
    depends |= {"trajectories": trajectories, "prompts": texts, "grid": grid}
    from mcts_ray.reward.value.data import read_manifest
    from mcts_ray.reward.value.record import STATES, Collector

    before = read_manifest(out) if out.is_dir() else None
    _check_same(out, before, depends | ({"taps": list(taps)} if taps else {}))
    if before and _done(before) == len(texts):
        return out
    collector = Collector(found, reward, config, device, threads, taps, grid)
    manifest = before or {"kind": "trajectories", **depends, **collector.facts, "shards": [], "counts": {}}
    _check_same(out, before, collector.facts)
    states = trajectories * (len(set(at)) if at else min(STATES, levels))
    _collect(collector, manifest, out, _prompts_per_shard(collector.bytes_of_state, states, len(texts), limit, out), report)
    return out


def _collect(collector: Collector, manifest: dict[str, Any], out: Path, per_shard: int, report: Report) -> None:
    from mcts_ray.reward.value.data import write_shard

    out.mkdir(parents=True, exist_ok=True)
    texts = manifest["prompts"]
    for first in range(_done(manifest), len(texts), per_shard):
        chosen = range(first, min(first + per_shard, len(texts)))
        tensors = collector.shard([texts[number] for number in chosen], first, manifest["trajectories"], manifest["at"])
        write_shard(out, manifest, first, tensors, len(chosen))
        report(f"{_done(manifest)} of {len(texts)} prompts, {sum(shard['states'] for shard in manifest['shards'])} states")


def _prompts_per_shard(state: int, states: int, prompts: int, limit: float, out: Path) -> int:
    """So many that a shard stays small; ValueError if all shards together would be too large."""
    total = state * states * prompts / 1e9
    if total > limit:
        what, more = f"{prompts} prompts with {states} states each", "take fewer prompts, or allow more with --limit"
        raise ValueError(f"{what} would write {total:.1f} GB to {out}, more than the limit of {limit:g}; {more}")
    return max(1, SHARD // (state * states))


def _check_amounts(trajectories: int, levels: int, at: Sequence[int] | None) -> None:
    if trajectories < 2:
        raise ValueError(f"a prompt needs two trajectories at least, one with noise and one without, not {trajectories}")
    wrong = [level for level in at or () if not 1 <= level <= levels]
    if wrong:
        raise ValueError(f"level {wrong[0]} has no state to note; levels run from 1 to {levels}")


def _check_same(out: Path, before: dict[str, Any] | None, depends: dict[str, Any]) -> None:
    """ValueError if `out` holds trajectories that were made in another way."""
    if before is None:
        return
    there = before | ({"taps": list(before["taps"])} if isinstance(depends.get("taps"), list) else {})
    changed = [name for name in depends if there.get(name) != depends[name]]
    if changed:
        raise ValueError(f"{out} holds trajectories that were made with other {', '.join(changed)}; collect into another folder")


def _done(manifest: dict[str, Any]) -> int:
    """How many prompts are in the shards."""
    return sum(shard["prompts"] for shard in manifest["shards"])
