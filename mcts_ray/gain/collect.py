"""Transitions for an IGE: which ones, checked before anything heavy is loaded, recorded shard by shard, gone on with.

`mcts_ray.gain.record` makes them. Cost of a prompt, with T levels, n states on each of m trajectories, K jumps and J noises, about

    m (T + n (T/2 + K J T / (2 stride)))   NFE,   m n (2 + K (J + 1)) decodes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcts_ray.checks import check_size, collection_prompts, default_reward
from mcts_ray.diffusion.resolve import image_size, resolve_model
from mcts_ray.report.share import make_all
from mcts_ray.reward.step import IN_ENGINE, find_step_model
from mcts_ray.search.branching import SCHEDULES
from mcts_ray.settings import make_config

if TYPE_CHECKING:
    from mcts_ray.gain.record import Collector, Scale

PER_SHARD = 16  # prompts
LIMIT = 4.0  # GB of all shards
ROW = 4096  # bytes of a state beside its features, at most

Report = Callable[[str], None]


def run(
    model: str,
    reward: str | None,
    prompts: Sequence[str] | None,
    out: Path,
    *,
    scale: Scale | None = None,
    levels: int = 30,
    grid: str = "native",
    guidance: float | None = None,
    seed: int = 0,
    count: int | None = None,
    step_reward: str = "x0",
    step_model: str | None = None,
    trunk: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    limit: float = LIMIT,
    report: Report = lambda line: None,
) -> Path:
    """Record the transitions of prompts to `out` (`mcts_ray.gain.data`).

    prompts: None for the training prompts of scenes, medium and hard in turn; count: how many of them, None: all. step_reward: whose
    calibrated scores make the target `reward_rate`: x0, lrm or value, with step_model. trunk: folder of a value head whose last hidden
    state is recorded in place of pooled features. The same call goes on where an earlier one was cut off, and takes a part of the shards
    where another process is at it. Raises ValueError with one sentence for what cannot be.
    """
    from mcts_ray.gain.record import Collector, Scale

    scale = scale or Scale()
    reward = default_reward(model, reward)
    texts = collection_prompts(model, reward, prompts, count)
    found = resolve_model(model)
    size = image_size(found)
    check_size(reward, *size)
    if step_reward in IN_ENGINE:
        step_model = find_step_model(step_reward, model, step_model)
    elif step_reward != "x0":
        raise ValueError(f"unknown step reward {step_reward!r}; choose x0, {' or '.join(IN_ENGINE)}")
    asked = make_config({"levels": levels, "grid": grid, "guidance": guidance, "seed": seed})
    config = asked.resolved(model == "scenes", size, reward)
    _check_scale(scale, levels)
    depends = {"model": model, "reward": reward, "levels": levels, "grid": grid, "guidance": config.guidance, "seed": seed}
    depends |= {"step_reward": step_reward, "step_model": step_model, "scale": _plain(scale), "prompts": texts}
    from mcts_ray.gain.data import read_manifest

    before = read_manifest(out) if out.is_dir() else None
    _check_same(out, before, depends)
    if before and _done(before) == len(texts) and all((out / shard["file"]).is_file() for shard in before["shards"]):
        return out
    collector = Collector(found, reward, config, scale, device, threads, step_reward, step_model, trunk)
    _check_same(out, before, collector.facts)
    states = scale.trajectories * (len(set(scale.at)) if scale.at else scale.states) * len(texts)
    total = states * (2 * collector.facts["features"] + ROW) / 1e9
    if total > limit:
        more = "take fewer prompts, or allow more with --limit"
        raise ValueError(f"{states} states would write {total:.1f} GB to {out}, more than the limit of {limit:g}; {more}")
    _collect(collector, before or {"kind": "transitions", **depends, **collector.facts, "shards": [], "counts": {}}, out, report)
    return out


def _collect(collector: Collector, manifest: dict[str, Any], out: Path, report: Report) -> None:
    """Make the shards that are not there, and that no other process has under way."""
    from mcts_ray.gain.data import write_manifest, write_shard

    out.mkdir(parents=True, exist_ok=True)
    texts = manifest["prompts"]
    firsts = {out / f"shard-{number:05d}.safetensors": first for number, first in enumerate(range(0, len(texts), PER_SHARD))}

    def noted() -> dict[str, Any]:
        return write_manifest(out, manifest, [file for file in firsts if file.exists()])

    def make(file: Path) -> None:
        chosen = texts[firsts[file] : firsts[file] + PER_SHARD]
        tensors = collector.shard(chosen, firsts[file])
        if not tensors:
            raise ValueError(f"no trajectory of the prompts from {chosen[0]!r} on came to its end; nothing can be recorded")
        write_shard(file, tensors, len(chosen), collector.nfe)
        done = noted()
        states, nfe = (sum(shard[what] for shard in done["shards"]) for what in ("states", "nfe"))
        report(f"{_done(done)} of {len(texts)} prompts, {states} states, {nfe} NFE")

    noted()
    make_all(dict.fromkeys(firsts, make), out / ".lock", report)
    noted()


def _check_scale(scale: Scale, levels: int) -> None:
    if scale.trajectories < 2:
        raise ValueError(f"a prompt needs two trajectories at least, one with noise and one without, not {scale.trajectories}")
    if 1 not in scale.jumps or len(set(scale.jumps)) != len(scale.jumps) or min(scale.jumps) < 1 or len(scale.jumps) < 2:
        raise ValueError(f"jumps must be 1 and others, to which it is compared, each once, not {list(scale.jumps)}")
    wrong = [level for level in scale.at or () if not 2 <= level <= levels]
    if wrong or levels < 2:
        raise ValueError(f"level {wrong[0] if wrong else levels} has nothing to choose; choose from 2 to {max(2, levels)}")
    if min(scale.noises, scale.stride, scale.states) < 1:
        raise ValueError("noises, stride and states must be at least 1")
    if scale.schedule not in SCHEDULES or not 0 < scale.phi <= 1.5:
        wrong = f"{scale.phi:g} and {scale.schedule}"
        raise ValueError(f"phi must be above 0 and at most 1.5, and its schedule one of {', '.join(SCHEDULES)}, not {wrong}")


def _check_same(out: Path, before: dict[str, Any] | None, depends: dict[str, Any]) -> None:
    """ValueError if `out` holds transitions that were made in another way."""
    changed = [name for name in depends if before is not None and before.get(name) != depends[name]]
    if changed:
        raise ValueError(f"{out} holds transitions that were made with other {', '.join(changed)}; collect into another folder")


def _plain(scale: Scale) -> dict[str, Any]:
    """As it is in JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(scale).items()}


def _done(manifest: dict[str, Any]) -> int:
    """How many prompts are in the shards."""
    return sum(shard["prompts"] for shard in manifest["shards"])
