"""The study behind `benchmarks.fusion`: one step, completions, whole searches; every group of parents is kept when it ends.

Suffixes: N children of a parent, R rows (one for each parent), P prompts, D bootstrap draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fusion_lab import CHILDREN, GROUP, JUMP, LEVELS, T, Lab, Parent, Remembering, Row, groups, parents, steps
from mcts_ray import SearchConfig
from mcts_ray.compare.figures import DRAWS, Interval, known_interval
from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.fuser import Start
from mcts_ray.scenes import prompts, verify_batch
from mcts_ray.scenes.detect import detect
from mcts_ray.search.base import Edge, Work
from mcts_ray.tree.weights import MODES, Refusal

COMPLETIONS = 4
HIGH = 0.3  # cycles per cell, from which a frequency of a latent is high
ONE_STEP = tuple(MODES)
FINISHED = ("innovation", "signed", "ensemble", "x0_transport")
CONTROLS = ("fresh", "mean", "slerp")
SEARCHED = 2  # modes that are searched with
JUDGED = ("gold", "guide", "pass", "band", "certainty")


@dataclass(frozen=True)
class Options:
    """What a stage is asked for: parents or prompts, modes (None: the stage's own), levels of a jump, and of stage 2 searches per
    prompt, fields of all arms, and the results of stage 1, which choose its modes."""

    count: int
    modes: Sequence[str] | None = None
    decoder: Path | None = None
    seeds: int = 4
    settings: dict[str, Any] = field(default_factory=dict)
    jump: int = JUMP
    finished: Row | None = None


def resampled(prompt_R: Sequence[str], value_R: np.ndarray, by_R: np.ndarray | None = None, seed: int = 0) -> Interval | None:
    """Mean of the known values, or their sum over that of `by_R`, with a 95 % bootstrap interval in which prompts are resampled.

    None if no value is known.
    """
    known_R = np.isfinite(value_R)
    if not known_R.any():
        return None
    by_R = np.ones(len(known_R)) if by_R is None else by_R
    _, place_R = np.unique(np.array(prompt_R)[known_R], return_inverse=True)
    sum_P, by_P = (np.bincount(place_R, each[known_R]) for each in (value_R, by_R))
    drawn_DP = np.random.default_rng(seed).integers(0, len(sum_P), (DRAWS, len(sum_P)))
    low, high = np.quantile(sum_P[drawn_DP].sum(1) / by_P[drawn_DP].sum(1), [0.025, 0.975])
    return tuple(round(float(v), 4) for v in (sum_P.sum() / by_P.sum(), low, high))


def by_level(rows: Sequence[Row], table: Callable[[Sequence[Row]], Row]) -> Row:
    """A table of all rows, and one for each level."""
    levels = {level: [row for row in rows if row["level"] == level] for level in LEVELS}
    return {"all": table(rows), "levels": {level: table(some) for level, some in levels.items() if some}}


def verdict(table: Row, modes: Sequence[str], figures: Sequence[str]) -> Row:
    """Whether fusion ships on: with the best mode whose differences of gold (`figures`) lie above 0 with their whole intervals."""
    known = [mode for mode in modes if mode not in CONTROLS and table[mode].get(figures[0])]
    if not known:
        return {"ships": "off", "mode": None, "why": "no mode has fused anything"}
    ranked = sorted(known, key=lambda mode: -table[mode][figures[0]][0])
    on = next((mode for mode in ranked if all(table[mode][figure][1] > 0 for figure in figures)), None)
    best = on or ranked[0]
    said = ", ".join("{} {:+.4f} [{:+.4f}, {:+.4f}]".format(figure, *table[best][figure]) for figure in figures)
    why = f"{best} has surely more gold" if on else f"no mode has surely more gold; nearest comes {best}"
    return {"ships": "on" if on else "off", "mode": on, "why": f"{why}: {said}"}


# stage 0 ---------------------------------------------------------------------------------------------------------------


def stage0(out: Path, options: Options) -> Row:
    """One step: the fused child of every mode against one more fresh child."""
    lab = Lab(options.decoder, options.jump)
    modes = lab.known(options.modes or ONE_STEP)

    def make(group: Sequence[Parent]) -> list[Row]:
        grown = lab.grow(group)
        made = {(p, mode): lab.fused(p, *grown[p], mode) for p in group for mode in modes}
        units = {key: one for key, one in made.items() if not isinstance(one, Refusal)}
        walked = lab.walk([work for work, _, _ in units.values()], {work.edges[0].node: start for work, start, _ in units.values()})
        scored = dict(zip(units, lab.scores(walked) if walked else [], strict=True))
        lab.drop(group)
        rows = []
        for p in group:
            words = {mode: _said(made[p, mode], scored.get((p, mode))) for mode in modes}
            rewards = {"rewards": grown[p][1][:CHILDREN], "fresh": grown[p][1][CHILDREN]}
            rows.append({"prompt": p.prompt, "level": p.level, **rewards, "modes": words})
        return rows

    design = {"stage": 0, "modes": modes, **lab.design}
    rows = groups(out, design, parents(options.count), GROUP, make)
    return {**design, **by_level(rows, lambda some: one_step(some, modes))}


def _said(one: tuple[Work, Start, float] | Refusal, reward: float | None) -> Row:
    """What is kept of one fused child."""
    if isinstance(one, Refusal):
        return {"refused": one}
    return {"reward": reward, "promised": one[2], "fallback": one[1].fallback}


def one_step(rows: Sequence[Row], modes: Sequence[str]) -> Row:
    """By mode: gain over the siblings' mean and over the fresh child in sibling sd, share that beats all siblings, kappa.

    `as_asked`: over the rows alone in which the mode did not fall back.
    """
    table = {}
    for mode in modes:
        mine = [row for row in rows if "reward" in row["modes"][mode]]
        asked = [row for row in mine if row["modes"][mode]["fallback"] is None]
        refused = Counter(row["modes"][mode]["refused"] for row in rows if "refused" in row["modes"][mode])
        table[mode] = {"refused": dict(refused), "refused_share": round(1 - len(mine) / len(rows), 4)}
        table[mode]["fell_back"] = round(1 - len(asked) / len(mine), 4) if mine else None
        table[mode] |= _gains(mine, mode) | {"as_asked": _gains(asked, mode)}
    return table


def _gains(rows: Sequence[Row], mode: str) -> Row:
    """The figures of one mode over the rows in which it fused."""
    if not rows:
        return {"fused": 0}
    r_RN = np.array([row["rewards"] for row in rows])
    mean_R, best_R, sd_R = r_RN.mean(1), r_RN.max(1), np.maximum(r_RN.std(1), 1e-6)
    reward_R, promised_R = (np.array([row["modes"][mode][what] for row in rows]) for what in ("reward", "promised"))
    fresh_R, prompt_R = np.array([row["fresh"] for row in rows]), [row["prompt"] for row in rows]
    return {
        "fused": len(rows),
        "gain": resampled(prompt_R, (reward_R - mean_R) / sd_R),
        "over_fresh": resampled(prompt_R, (reward_R - fresh_R) / sd_R),
        "over_best": resampled(prompt_R, (reward_R - best_R) / sd_R),
        "accepted": resampled(prompt_R, (reward_R > best_R).astype(float)),
        "fresh_accepted": resampled(prompt_R, (fresh_R > best_R).astype(float)),
        "kappa": resampled(prompt_R, reward_R - mean_R, promised_R),
    }


# stage 1 ---------------------------------------------------------------------------------------------------------------


def stage1(out: Path, options: Options) -> Row:
    """Completions with common random numbers: what the images of a fused child are worth."""
    lab = Lab(options.decoder, options.jump)
    modes = lab.known(options.modes or FINISHED)

    def make(group: Sequence[Parent]) -> list[Row]:
        grown = lab.grow(group)
        arms, words, works, noise = {}, {}, [], {}
        for p in group:
            arms[p], words[p] = _arms(lab, p, *grown[p], modes)
            common = draw([f"{p.name}/completion/{m}" for m in range(COMPLETIONS)], (4, 8, 8))
            for arm, node in arms[p].items():
                for m in range(COMPLETIONS):
                    works.append(_completion(lab, p, node, f"{arm}/{m}"))
                    noise[works[-1].edges[0].node] = common[m]
        latents = torch.stack([one.latent for one in lab.walk(works, noise=noise)])
        found = iter(judged(lab, latents, [work.setting.prompt for work in works]))
        lab.drop(group)
        images = {p: {arm: [next(found) for _ in range(COMPLETIONS)] for arm in arms[p]} for p in group}
        return [{"prompt": p.prompt, "level": p.level, "arms": images[p], "modes": words[p]} for p in group]

    design = {"stage": 1, "modes": modes, "completions": COMPLETIONS, **lab.design}
    rows = groups(out, design, parents(options.count), GROUP, make)
    found = by_level(rows, lambda some: completed(some, modes))
    return {**design, "verdict": verdict(found["all"], modes, ["gold_over_fresh"]), **found}


def _arms(
    lab: Lab, parent: Parent, names: Sequence[str], rewards: Sequence[float], modes: Sequence[str]
) -> tuple[dict[str, str], dict[str, Row]]:
    """The state that each arm goes on from, without modes that refuse; and for each mode its refusal and its fallback, or None."""
    best = names[int(np.argmax(rewards[:CHILDREN]))]
    made = {mode: lab.fused(parent, names, rewards, mode) for mode in modes}
    units = {mode: one for mode, one in made.items() if not isinstance(one, Refusal)}
    lab.walk([work for work, _, _ in units.values()], {work.edges[0].node: start for work, start, _ in units.values()})
    words = {
        mode: {"refused": None, "fallback": one[1].fallback} if mode in units else {"refused": one, "fallback": None}
        for mode, one in made.items()
    }
    fused = {mode: work.edges[0].node for mode, (work, _, _) in units.items()}
    return {"best": best, "fresh": names[CHILDREN], **fused}, words


def _completion(lab: Lab, parent: Parent, node: str, label: str) -> Work:
    """From a child to its image: one noisy jump, then none."""
    level = parent.level - lab.k
    first, *others = steps(level, lab.k)
    way = [Edge(f"{parent.name}/{label}/{s}", s) for s in others]
    edges = (Edge(f"{parent.name}/{label}", first, lab.branching.angle(level)), *way)
    return Work(f"{parent.name}/{label}", parent.name, lab.setting(parent.prompt), node, "jump", edges)


def judged(lab: Lab, latent_NCHW: torch.Tensor, texts: Sequence[str]) -> list[Row]:
    """Guide, gold, pass and blur of finished latents."""
    images = lab.decoder.decode(latent_NCHW)
    guides = [answer.score for answer in lab.guide.score(images, list(texts))]
    bands = high_band(latent_NCHW)
    return [
        {"guide": guide, "gold": gold, "pass": float(passed), "band": band, "certainty": certainty}
        for guide, (gold, passed, _), band, certainty in zip(guides, verify_batch(images, texts), bands, certainties(images), strict=True)
    ]


def high_band(latent_NCHW: torch.Tensor) -> list[float]:
    """Share of the energy of each latent, its mean left out, in high frequencies: less of it is blur."""
    power = torch.fft.fft2(latent_NCHW.float(), norm="ortho").abs().square()
    H, W = latent_NCHW.shape[2:]
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None])
    return (power[..., radius >= HIGH].sum((1, 2)) / power[..., radius > 0].sum((1, 2))).tolist()


def certainties(images_NHWC: np.ndarray) -> list[float | None]:
    """How far the outlines in each image favour their shapes, by the verifier's detector; None where nothing is found."""
    return [float(np.mean([one.certainty for one in found])) if found else None for found in detect(images_NHWC)]


def completed(rows: Sequence[Row], modes: Sequence[str]) -> Row:
    """By arm: means over completions, and differences to the fresh child and to the best one.

    Where a mode refused, the fresh child stands in its place, as in a search; `as_asked`: over the rows alone in which it fused and
    did not fall back.
    """
    table = {arm: _means(rows, arm) for arm in ("best", "fresh", *modes)}
    for mode in modes:
        words = [row["modes"][mode] for row in rows]
        asked = [row for row, word in zip(rows, words) if word["refused"] is None and word["fallback"] is None]
        refused, fell_back = (Counter(word[what] for word in words if word[what]) for what in ("refused", "fallback"))
        table[mode] |= {"refused": dict(refused), "refused_share": round(refused.total() / len(rows), 4)}
        table[mode] |= {"fell_back": round(fell_back.total() / max(1, len(rows) - refused.total()), 4)}
        table[mode]["as_asked"] = {"fused": len(asked)} | (_means(asked, mode) if asked else {})
    return table


def _means(rows: Sequence[Row], arm: str) -> Row:
    """The figures of one arm."""
    prompt_R = [row["prompt"] for row in rows]

    def values(arm: str, what: str) -> np.ndarray:
        known = [[one[what] for one in row["arms"].get(arm, row["arms"]["fresh"]) if one[what] is not None] for row in rows]
        return np.array([np.mean(some) if some else np.nan for some in known])

    found = {what: resampled(prompt_R, values(arm, what)) for what in JUDGED}
    for base in ("fresh", "best"):
        if arm != base:
            found |= {f"{what}_over_{base}": resampled(prompt_R, values(arm, what) - values(base, what)) for what in JUDGED}
    return found


# stage 2 ---------------------------------------------------------------------------------------------------------------


def stage2(out: Path, options: Options) -> Row:
    """Whole searches at 8 T: without fusion, with a fresh child in its place, and with modes."""
    lab = Lab(options.decoder, options.jump)
    memory = lab.searcher.backend.decoder = Remembering(lab.denoiser.adapter)
    modes = lab.known(options.modes or best_modes(options.finished, lab.design))
    arms = ["none", "fresh", *(mode for mode in modes if mode != "fresh")]
    texts = prompts("hard", "validation")[: options.count]
    cells = [(seed, arm, at) for seed in range(options.seeds) for arm in arms for at in range(0, len(texts), GROUP)]
    settings = {"k": options.jump, **options.settings}

    def make(cell: Sequence[tuple[int, str, int]]) -> list[Row]:
        (seed, arm, at), = cell
        fields = {"budget": 8 * T, "levels": T, "seed": seed, "fuse": arm, "fuse_model": lab.folder if arm == "decoder" else None}
        config = SearchConfig(**{**fields, **settings}, algorithm="mcts", images=1, reward="scenes")
        memory.latents.clear()
        return [_searched(memory, one, arm, at + i) for i, one in enumerate(lab.searcher.many(texts[at : at + GROUP], config))]

    design = {"stage": 2, "arms": arms, "prompts": options.count, "seeds": options.seeds, "settings": settings, **lab.design}
    table = searched(groups(out, design, cells, 1, make), arms)
    return {**design, "verdict": verdict(table, modes, ["gold_over_fresh", "gold_difference"]), "all": table}


def best_modes(finished: Row | None, design: Row) -> list[str]:
    """The modes of stage 1 with the most gold over a fresh child; ValueError without its results, or with those of another design."""
    if finished is None:
        raise ValueError("stage 2 searches with the best modes of stage 1, which has no results yet; run it first, or name --modes")
    differs = [name for name in design if name != "decoder" and finished[name] != design[name]]
    if differs:
        raise ValueError(f"the results of stage 1 are of another {differs[0]} than this stage's; run stage 1 again, or name --modes")
    table = finished["all"]
    known = [mode for mode in finished["modes"] if mode not in CONTROLS and table[mode]["gold_over_fresh"]]
    return sorted(known, key=lambda mode: -table[mode]["gold_over_fresh"][0])[:SEARCHED]


def _searched(memory: Remembering, result, arm: str, prompt: int) -> Row:
    image = np.asarray(result.images[0])[None]
    latent = memory.latents[image.tobytes()]
    (gold, passed, _), = verify_batch(image, [result.prompt])
    row = {"arm": arm, "prompt": prompt, "gold": gold, "pass": float(passed), "guide": result.best.reward}
    row |= {"band": high_band(latent[None])[0], "certainty": certainties(image)[0], "nfe": result.ledger.nfe}
    return row | {"fusions": result.ledger.fusions, "refusals": dict(result.refusals)}


def searched(rows: Sequence[Row], arms: Sequence[str]) -> Row:
    """By arm: means over prompts (seeds averaged first), and differences to no fusion and to the fresh child."""
    count = 1 + max(row["prompt"] for row in rows)

    def values(arm: str, what: str) -> np.ndarray:
        each = [[r[what] for r in rows if r["arm"] == arm and r["prompt"] == p and r[what] is not None] for p in range(count)]
        return np.array([np.mean(some) if some else np.nan for some in each])

    table = {}
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        table[arm] = {what: known_interval(values(arm, what)) for what in JUDGED}
        table[arm] |= {"searches": len(mine), "fusions": round(float(np.mean([row["fusions"] for row in mine])), 2)}
        table[arm]["refusals"] = dict(sum((Counter(row["refusals"]) for row in mine), Counter()))
        for base, name in (("none", "difference"), ("fresh", "over_fresh")):
            if arm != base:
                table[arm] |= {f"{w}_{name}": known_interval(values(arm, w) - values(base, w)) for w in JUDGED}
    return table


STAGES = {"0": stage0, "1": stage1, "2": stage2}
