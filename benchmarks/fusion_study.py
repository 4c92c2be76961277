"""The study behind `benchmarks.fusion`: one step, completions, whole searches; every group of parents is kept when it ends.

Suffixes: N children of a parent, M completions, P parents or prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.checks import fusion_decoder
from mcts_ray.compare.figures import interval, known_interval
from mcts_ray.diffusion.engine import Engine, Walked
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import Kept
from mcts_ray.diffusion.taps import middle_tap
from mcts_ray.fusion.fuser import Start, start_of
from mcts_ray.report.run import write_json
from mcts_ray.reward import resolve_reward
from mcts_ray.scenes import prompts, verify_batch
from mcts_ray.scenes.detect import detect
from mcts_ray.search.base import Edge, Fuse, Setting, Work
from mcts_ray.search.branching import Branching
from mcts_ray.search.ids import fuse_id, jump_id, seed_id
from mcts_ray.tree.weights import MODES, Refusal, fusion_weights

T, GUIDANCE, CHILDREN, COMPLETIONS, GROUP = 30, 3.0, 8, 4, 20
LEVELS = (26, 22, 18, 14, 10)  # of parents
PHI = 0.6  # as in the default of mcts
HIGH = 0.3  # cycles per cell, from which a frequency of a latent is high
ONE_STEP = tuple(MODES)
FINISHED = ("innovation", "signed", "ensemble", "x0_transport")
SEARCHED = ("innovation", "signed")
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a stage is asked for: parents or prompts, modes (None: the stage's own), and of stage 2 searches per prompt and fields of
    all arms."""

    count: int
    modes: Sequence[str] | None = None
    decoder: Path | None = None
    seeds: int = 4
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """A state at `level` on the noise-free path from seed `number` with a prompt; its name tells it apart from all others."""

    number: int
    prompt: str
    level: int

    @property
    def name(self) -> str:
        return f"parent/{self.number}"

    @property
    def node(self) -> str:
        return jump_id(seed_id(self.number, 0), T - self.level)


def parents(count: int) -> list[Parent]:
    """Hard validation prompts and levels in turn, each with a seed of its own."""
    texts = prompts("hard", "validation")
    return [Parent(i, texts[i // len(LEVELS) % len(texts)], LEVELS[i % len(LEVELS)]) for i in range(count)]


@dataclass
class Lab:
    """The scenes model with an engine for one group of parents after the other, and its judges."""

    decoder_folder: Path | None = None
    searcher: Searcher = field(default_factory=lambda: Searcher.from_pretrained("scenes", "cpu"))

    def __post_init__(self) -> None:
        self.denoiser, self.decoder = self.searcher.backend.denoiser, self.searcher.backend.decoder
        self.guide = resolve_reward("scenes")
        self.branching = Branching(T, PHI, 3)
        self.engine = Engine(self.denoiser, 64)

    @cached_property
    def folder(self) -> str | None:
        """Of the fusion decoder; None if there is none."""
        config = SearchConfig(algorithm="mcts", fuse="decoder", fuse_model=self.decoder_folder and str(self.decoder_folder))
        try:
            return fusion_decoder("scenes", config)
        except ValueError:
            return None

    def setting(self, prompt: str) -> Setting:
        tap = middle_tap(self.denoiser.adapter.tap_points)
        return Setting(prompt, guidance=GUIDANCE, levels=T, tap=tap, fuse_model=self.folder)

    def walk(
        self, works: Sequence[Work], starts: dict[str, Start] | None = None, noise: dict[str, torch.Tensor] | None = None
    ) -> list[Walked]:
        """Walks to their ends, in the order of `works`."""
        starts = starts or {}
        given = {node: start.tensor for node, start in starts.items() if not start.whole} | (noise or {})
        self.engine.submit(works, given, {node: start.tensor for node, start in starts.items() if start.whole})
        walked: dict[str, Walked] = {}
        while not self.engine.idle:
            walked |= {one.work.id: one for one in self.engine.step()}
        assert not any(one.error for one in walked.values()), "a walk has failed"
        return [walked[work.id] for work in works]

    def scores(self, walked: Sequence[Walked]) -> list[float]:
        """The guide on the predicted image of each walk's scored state."""
        images = self.decoder.decode(torch.stack([one.x0s[0] for one in walked]))
        return [answer.score for answer in self.guide.score(images, [one.work.setting.prompt for one in walked])]

    def kept(self, parent: Parent, node: str) -> Kept:
        return self.engine.store.get(parent.name, node)

    # a group of parents ----------------------------------------------------------------------------------------------

    def grow(self, group: Sequence[Parent]) -> dict[Parent, tuple[list[str], list[float]]]:
        """Of each parent N + 1 children by one jump, their names and step scores; the last is the fresh one to compare with."""
        self.walk([self._trunk(parent) for parent in group])
        works = [self.child(parent, jump_id(parent.node, 1, i)) for parent in group for i in range(CHILDREN + 1)]
        scores = iter(self.scores(self.walk(works)))
        each = CHILDREN + 1
        nodes = [[work.edges[0].node for work in works[i * each : (i + 1) * each]] for i in range(len(group))]
        return {parent: (names, [next(scores) for _ in names]) for parent, names in zip(group, nodes, strict=True)}

    def _trunk(self, parent: Parent) -> Work:
        root = Edge(seed_id(parent.number, 0), T)
        way = [Edge(f"{parent.name}/{level}", level) for level in range(T - 1, parent.level, -1)]
        edges = (root, *way, Edge(parent.node, parent.level))
        return Work(parent.name, parent.name, self.setting(parent.prompt), None, "seed", edges, (parent.node,))

    def child(self, parent: Parent, node: str, fuse: Fuse | None = None) -> Work:
        """The unit that evaluates one child, fused or not."""
        edge = Edge(node, parent.level - 1, self.branching.angle(parent.level))
        name, action, setting = f"{parent.name}/{node}", "fuse" if fuse else "jump", self.setting(parent.prompt)
        return Work(name, parent.name, setting, parent.node, action, (edge,), keep=(node,), scored=(node,), fuse=fuse)

    def fused(self, parent: Parent, names: Sequence[str], rewards: Sequence[float], mode: str) -> tuple[Work, Start, float] | Refusal:
        """The unit of the fused child of the first N children by a mode, what it starts from, and the gain it promises."""
        weights = fusion_weights(mode, rewards[:CHILDREN])
        if isinstance(weights, Refusal):
            return weights
        particles = tuple(names[i] for i in weights.kept)
        rule = Fuse(mode, particles, weights.a)
        work = self.child(parent, fuse_id(parent.node, mode, particles, weights.a), rule)
        start = start_of(work, (4, 8, 8), {name: self.kept(parent, name) for name in particles})
        return start if isinstance(start, Refusal) else (work, start, weights.gain)

    def known(self, modes: Sequence[str]) -> list[str]:
        """The modes without those that lack their network."""
        return [mode for mode in modes if mode != "decoder" or self.folder]

    def drop(self, group: Sequence[Parent]) -> None:
        for parent in group:
            self.engine.drop(parent.name)


def groups(out: Path, design: dict[str, Any], items: Sequence[Any], size: int, make: Callable[[Sequence[Any]], list[Row]]) -> list[Row]:
    """The rows of all items, `size` at a time; groups that are in `out` are read. Raises ValueError for another design's folder."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "design.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(design)):
        raise ValueError(f"{out} holds a study of another design; choose another folder with --out")
    write_json(path, design)
    rows: list[Row] = []
    for at in range(0, len(items), size):
        group = items[at : at + size]
        path = out / f"group-{at:05d}-{len(group)}.json"
        if not path.exists():
            write_json(path, make(group))
            print(f"{out.name}: {at + len(group)} of {len(items)}", flush=True)
        rows += json.loads(path.read_text())
    return rows


# stage 0 ---------------------------------------------------------------------------------------------------------------


def stage0(out: Path, options: Options) -> dict[str, Any]:
    """One step: the fused child of every mode against one more fresh child."""
    lab = Lab(options.decoder)
    modes = lab.known(options.modes or ONE_STEP)

    def make(group: Sequence[Parent]) -> list[Row]:
        grown = lab.grow(group)
        made = {(p, mode): lab.fused(p, *grown[p], mode) for p in group for mode in modes}
        out_ = {key: one for key, one in made.items() if not isinstance(one, Refusal)}
        walked = lab.walk([work for work, _, _ in out_.values()], {work.edges[0].node: start for work, start, _ in out_.values()})
        scored = dict(zip(out_, lab.scores(walked) if walked else [], strict=True))
        lab.drop(group)
        rows = []
        for p in group:
            row = {"level": p.level, "rewards": grown[p][1][:CHILDREN], "fresh": grown[p][1][CHILDREN], "modes": {}}
            for mode in modes:
                one = made[p, mode]
                row["modes"][mode] = (
                    {"refused": one.value}
                    if isinstance(one, Refusal)
                    else {"reward": scored[p, mode], "promised": one[2], "fallback": one[1].fallback}
                )
            rows.append(row)
        return rows

    design = {"stage": 0, "modes": modes, "decoder": lab.folder, "children": CHILDREN, "phi": PHI}
    rows = groups(out, design, parents(options.count), GROUP, make)
    tables = {level: [row for row in rows if row["level"] == level] for level in LEVELS}
    return {"all": one_step(rows, modes), "levels": {level: one_step(some, modes) for level, some in tables.items() if some}}


def one_step(rows: Sequence[Row], modes: Sequence[str]) -> dict[str, Row]:
    """By mode: gain over the siblings' mean and over the fresh child in sibling sd, share that beats all siblings, kappa."""
    table = {}
    for mode in modes:
        mine = [(row, row["modes"][mode]) for row in rows if "reward" in row["modes"][mode]]
        refused = Counter(row["modes"][mode]["refused"] for row in rows if "refused" in row["modes"][mode])
        table[mode] = {"fused": len(mine), "refused": dict(refused)}
        if mine:
            r_PN = np.array([row["rewards"] for row, _ in mine])
            mean_P, sd_P = r_PN.mean(1), np.maximum(r_PN.std(1), 1e-6)
            reward_P, fresh_P = np.array([one["reward"] for _, one in mine]), np.array([row["fresh"] for row, _ in mine])
            promised_P = np.array([one["promised"] for _, one in mine])
            table[mode] |= {
                "fell_back": round(float(np.mean([one["fallback"] is not None for _, one in mine])), 4),
                "gain": interval((reward_P - mean_P) / sd_P),
                "over_fresh": interval((reward_P - fresh_P) / sd_P),
                "over_best": interval((reward_P - r_PN.max(1)) / sd_P),
                "accepted": interval((reward_P > r_PN.max(1)).astype(float)),
                "fresh_accepted": interval((fresh_P > r_PN.max(1)).astype(float)),
                "kappa": round(float((reward_P - mean_P).sum() / promised_P.sum()), 4),
            }
    return table


# stage 1 ---------------------------------------------------------------------------------------------------------------


def stage1(out: Path, options: Options) -> dict[str, Any]:
    """Completions with common random numbers: what the images of a fused child are worth."""
    lab = Lab(options.decoder)
    modes = lab.known(options.modes or FINISHED)

    def make(group: Sequence[Parent]) -> list[Row]:
        grown = lab.grow(group)
        arms = {p: _arms(lab, p, *grown[p], modes) for p in group}
        works, noise = [], {}
        for p in group:
            common = draw([f"{p.name}/completion/{m}" for m in range(COMPLETIONS)], (4, 8, 8))
            for arm, node in arms[p].items():
                for m in range(COMPLETIONS):
                    works.append(_completion(lab, p, node, f"{arm}/{m}"))
                    noise[works[-1].edges[0].node] = common[m]
        latents = torch.stack([one.latent for one in lab.walk(works, noise=noise)])
        found = iter(judged(lab, latents, [work.setting.prompt for work in works]))
        rows = [{"level": p.level, "arms": {arm: [next(found) for _ in range(COMPLETIONS)] for arm in arms[p]}} for p in group]
        lab.drop(group)
        return rows

    design = {"stage": 1, "modes": modes, "decoder": lab.folder, "completions": COMPLETIONS, "phi": PHI}
    rows = groups(out, design, parents(options.count), GROUP, make)
    tables = {level: [row for row in rows if row["level"] == level] for level in LEVELS}
    names = ["best", "fresh", *modes]
    return {"all": completed(rows, names), "levels": {level: completed(some, names) for level, some in tables.items() if some}}


def _arms(lab: Lab, parent: Parent, names: Sequence[str], rewards: Sequence[float], modes: Sequence[str]) -> dict[str, str]:
    """The state that each arm goes on from; a mode that refuses goes on from the fresh child, as a search would."""
    best = names[int(np.argmax(rewards[:CHILDREN]))]
    arms, units = {"best": best, "fresh": names[CHILDREN]}, {}
    for mode in modes:
        one = lab.fused(parent, names, rewards, mode)
        if not isinstance(one, Refusal):
            units[mode] = one
    lab.walk([work for work, _, _ in units.values()], {work.edges[0].node: start for work, start, _ in units.values()})
    return arms | {mode: units[mode][0].edges[0].node if mode in units else arms["fresh"] for mode in modes}


def _completion(lab: Lab, parent: Parent, node: str, label: str) -> Work:
    """From a child to its image: one noisy jump, then none."""
    level = parent.level - 1
    first = Edge(f"{parent.name}/{label}", level - 1, lab.branching.angle(level))
    way = tuple(Edge(f"{parent.name}/{label}/{s}", s) for s in range(level - 2, -1, -1))
    return Work(f"{parent.name}/{label}", parent.name, lab.setting(parent.prompt), node, "jump", (first, *way))


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
    """Share of the energy of each latent in high frequencies: less of it is blur."""
    power = torch.fft.fft2(latent_NCHW.float(), norm="ortho").abs().square()
    H, W = latent_NCHW.shape[2:]
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None])
    return (power[..., radius >= HIGH].sum((1, 2)) / power.sum((1, 2, 3))).tolist()


def certainties(images_NHWC: np.ndarray) -> list[float | None]:
    """How far the outlines in each image favour their shapes, by the verifier's detector; None where nothing is found."""
    return [float(np.mean([one.certainty for one in found])) if found else None for found in detect(images_NHWC)]


def completed(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, Row]:
    """By arm: means over completions, and differences to the fresh child and to the best one."""

    def values(arm: str, what: str) -> np.ndarray:
        each = [[np.nan if one[what] is None else one[what] for one in row["arms"][arm]] for row in rows]
        return np.array([np.nanmean(some) if np.isfinite(some).any() else np.nan for some in each])

    table = {}
    for arm in arms:
        table[arm] = {what: known_interval(values(arm, what)) for what in ("gold", "guide", "pass", "band", "certainty")}
        for base in ("fresh", "best"):
            if arm != base:
                table[arm] |= {f"{w}_over_{base}": known_interval(values(arm, w) - values(base, w)) for w in ("gold", "guide", "pass")}
    return table


# stage 2 ---------------------------------------------------------------------------------------------------------------


def stage2(out: Path, options: Options) -> dict[str, Any]:
    """Whole searches at 8 T: without fusion, with a fresh child in its place, and with modes."""
    lab = Lab(options.decoder)
    arms = ["none", "fresh", *lab.known(options.modes or SEARCHED)]
    texts = prompts("hard", "validation")[: options.count]
    cells = [(seed, arm, at) for seed in range(options.seeds) for arm in arms for at in range(0, len(texts), GROUP)]

    def make(cell: Sequence[tuple[int, str, int]]) -> list[Row]:
        (seed, arm, at), = cell
        fields = {"budget": 8 * T, "levels": T, "seed": seed, "fuse": arm, "fuse_model": lab.folder if arm == "decoder" else None}
        config = SearchConfig(**{**fields, **options.settings}, algorithm="mcts", images=1, reward="scenes")
        return [_searched(lab, one, arm, at + i) for i, one in enumerate(lab.searcher.many(texts[at : at + GROUP], config))]

    design = {"stage": 2, "arms": arms, "prompts": options.count, "seeds": options.seeds, "settings": options.settings}
    return {**design, "all": searched(groups(out, design, cells, 1, make), arms)}


def _searched(lab: Lab, result, arm: str, prompt: int) -> Row:
    image = np.asarray(result.images[0])[None]
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latent = lab.denoiser.adapter.pipe.vae.encode(pixels).latent_dist.mean
    (gold, passed, _), = verify_batch(image, [result.prompt])
    row = {"arm": arm, "prompt": prompt, "gold": gold, "pass": float(passed), "guide": result.best.reward}
    row |= {"band": high_band(latent)[0], "certainty": certainties(image)[0], "nfe": result.ledger.nfe}
    return row | {"fusions": result.ledger.fusions, "refusals": dict(result.refusals)}


def searched(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, Row]:
    """By arm: means over prompts (seeds averaged first), and differences to no fusion and to the fresh child."""
    count = 1 + max(row["prompt"] for row in rows)

    def values(arm: str, what: str) -> np.ndarray:
        each = [[r[what] for r in rows if r["arm"] == arm and r["prompt"] == p and r[what] is not None] for p in range(count)]
        return np.array([np.mean(some) if some else np.nan for some in each])

    table = {}
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        table[arm] = {what: known_interval(values(arm, what)) for what in ("gold", "pass", "guide", "band", "certainty")}
        table[arm] |= {"searches": len(mine), "fusions": round(float(np.mean([row["fusions"] for row in mine])), 2)}
        table[arm]["refusals"] = dict(sum((Counter(row["refusals"]) for row in mine), Counter()))
        for base, name in (("none", "difference"), ("fresh", "over_fresh")):
            if arm != base:
                figures = ("gold", "pass", "guide", "band", "certainty")
                table[arm] |= {f"{w}_{name}": known_interval(values(arm, w) - values(base, w)) for w in figures}
    return table


STAGES = {"0": stage0, "1": stage1, "2": stage2}
