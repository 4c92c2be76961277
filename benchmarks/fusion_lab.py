"""The laboratory of the study of fusion: the scenes model with an engine, its judges, and groups of parents that processes share.

Suffixes: N children of a parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.checks import fusion_decoder
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.engine import Engine, Walked
from mcts_ray.diffusion.store import Kept
from mcts_ray.diffusion.taps import middle_tap
from mcts_ray.fusion.fuser import Start, start_of
from mcts_ray.report.run import write_json
from mcts_ray.report.share import make_all
from mcts_ray.reward import resolve_reward
from mcts_ray.reward.weights import digest, local_files
from mcts_ray.scenes import prompts
from mcts_ray.scenes.scorer import WEIGHTS
from mcts_ray.search.base import Edge, Fuse, Setting, Work
from mcts_ray.search.branching import Branching
from mcts_ray.search.ids import fuse_id, jump_id, seed_id
from mcts_ray.tree.weights import Refusal, fusion_weights

T, GUIDANCE, CHILDREN, GROUP = 30, 3.0, 8, 20
LEVELS = (26, 22, 18, 14, 10)  # of parents
JUMP = 2  # levels of a jump: transports want more than one, and at 8 T with jumps of one hardly a set of siblings grows to six
PHI = 0.6  # as in the default of mcts
Row = dict[str, Any]


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


def steps(level: int, k: int) -> list[int]:
    """The levels at which jumps of k from `level` arrive, 0 the last."""
    return [*range(level - k, 0, -k), 0]


class Remembering(Decoder):
    """A decoder that can say from which latent (C, H, W) an image came, so that nothing must be read off its 8 bits."""

    def __init__(self, adapter) -> None:
        super().__init__(adapter)
        self.latents: dict[bytes, torch.Tensor] = {}  # by the bytes of the image

    def decode(self, latent_NCHW: torch.Tensor) -> np.ndarray:
        images = super().decode(latent_NCHW)
        self.latents |= {image.tobytes(): latent for image, latent in zip(images, latent_NCHW)}
        return images


@dataclass
class Lab:
    """The scenes model with an engine for one group of parents after the other, and its judges; all moves are jumps of `k` levels."""

    decoder_folder: Path | None = None
    k: int = JUMP
    searcher: Searcher = field(default_factory=lambda: Searcher.from_pretrained("scenes", "cpu"))

    def __post_init__(self) -> None:
        self.denoiser, self.decoder = self.searcher.backend.denoiser, self.searcher.backend.decoder
        self.guide = resolve_reward("scenes")
        self.branching = Branching(T, PHI, 3)
        self.engine = Engine(self.denoiser, 64)

    @property
    def design(self) -> Row:
        """What the rows depend on, whatever the stage; networks by the digest of their weights."""
        weights = local_files(str(WEIGHTS / "pipeline")) + local_files(str(WEIGHTS / "scorer"))
        named = {"T": T, "guidance": GUIDANCE, "parents_at": list(LEVELS), "children": CHILDREN, "phi": PHI, "jump": self.k}
        return {**named, "weights": digest(weights), "decoder": self.folder and digest([Path(self.folder) / "model.safetensors"])}

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
        works = [self.child(parent, jump_id(parent.node, self.k, i)) for parent in group for i in range(CHILDREN + 1)]
        scores = iter(self.scores(self.walk(works)))
        each = CHILDREN + 1
        nodes = [[work.edges[0].node for work in works[i * each : (i + 1) * each]] for i in range(len(group))]
        return {parent: (names, [next(scores) for _ in names]) for parent, names in zip(group, nodes, strict=True)}

    def _trunk(self, parent: Parent) -> Work:
        root = Edge(seed_id(parent.number, 0), T)
        way = [Edge(f"{parent.name}/{level}", level) for level in range(T - self.k, parent.level, -self.k)]
        edges = (root, *way, Edge(parent.node, parent.level))
        return Work(parent.name, parent.name, self.setting(parent.prompt), None, "seed", edges, (parent.node,))

    def child(self, parent: Parent, node: str, fuse: Fuse | None = None) -> Work:
        """The unit that evaluates one child, fused or not."""
        edge = Edge(node, parent.level - self.k, self.branching.angle(parent.level))
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
        """The modes without those that lack their network, which are said."""
        left_out = [mode for mode in modes if mode == "decoder" and not self.folder]
        if left_out:
            print(f"left out: {', '.join(left_out)}, for want of a network; make one with `mcts-ray train fusion`", flush=True)
        return [mode for mode in modes if mode not in left_out]

    def drop(self, group: Sequence[Parent]) -> None:
        for parent in group:
            self.engine.drop(parent.name)


def groups(out: Path, design: Row, items: Sequence[Any], size: int, make: Callable[[Sequence[Any]], list[Row]]) -> list[Row]:
    """The rows of all items, made `size` at a time by all processes that work on `out`; groups that are there are read.

    Raises ValueError for another design's folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "design.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(design)):
        raise ValueError(f"{out} holds a study of another design; choose another folder with --out")
    write_json(path, design)

    def group(at: int, path: Path) -> None:
        write_json(path, make(items[at : at + size]))
        print(f"{out.name}: {len(list(out.glob('group-*.json')))} of {len(files)} groups", flush=True)

    starts = range(0, len(items), size)
    files = {out / f"group-{at:05d}-{len(items[at : at + size])}.json": partial(group, at) for at in starts}
    make_all(files, out / ".lock", lambda line: print(f"{out.name}: {line}", flush=True))
    return [row for path in files for row in json.loads(path.read_text())]
