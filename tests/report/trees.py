"""Made-up trees and results for the report: as tree.json has them, without a model."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from PIL import Image

from mcts_ray import Candidate, Ledger, SearchConfig
from mcts_ray.result import SearchResult


@dataclass
class Grower:
    """Adds nodes and whole roll-outs to a tree."""

    nodes: list[dict] = field(default_factory=list)
    finished: list[Candidate] = field(default_factory=list)

    def node(self, parent: dict | None, level: int, action: str, value: float | None = None, **more) -> dict:
        id = f"{len(self.nodes):032x}"
        visits = int(value is not None)
        node = {"id": id, "parent": parent and parent["id"], "level": level, "action": action, "visits": visits, "value": value}
        self.nodes.append({**node, **more})
        return self.nodes[-1]

    def rollout(self, node: dict, k: int, reward: float) -> dict:
        """Jumps of k down to level 0, where the image has `reward`."""
        while node["level"] > 0:
            size = min(k, node["level"])
            node = self.node(node, node["level"] - size, f"jump {size}", reward)
        self.finished.append(Candidate(node["id"], reward, len(self.nodes), len(self.nodes) / 10))
        return node


def small_tree() -> Grower:
    """Two seeds at level 8; of the second three siblings at level 4, one of them fused from the others and the best."""
    grower = Grower()
    grower.rollout(grower.node(None, 8, "seed", 0.3), 4, 0.3)
    seed = grower.node(None, 8, "seed", 0.6)
    particles = [grower.node(seed, 4, "jump 4", value, phi=0.6, score=0.5) for value in (0.5, 0.4)]
    for particle in particles:
        grower.rollout(particle, 2, particle["value"])
    fused = grower.node(seed, 4, "fuse", 0.9, particles=[particle["id"] for particle in particles])
    grower.rollout(fused, 1, 0.9)
    grower.node(seed, 7, "jump 1")  # in flight
    return grower


def large_tree(n: int, levels: int = 30, seed: int = 0) -> Grower:
    """At least `n` nodes: branches anywhere above level 6, in jumps of 1 to 8."""
    rng, grower = random.Random(seed), Grower()
    while len(grower.nodes) < n:
        parent = rng.choice(grower.nodes) if rng.random() < 0.95 and grower.nodes else None
        if parent and parent["level"] <= 6:
            continue
        level = parent["level"] - rng.choice((1, 2, 4)) if parent else levels
        action = f"jump {parent['level'] - level}" if parent else "seed"
        grower.rollout(grower.node(parent, level, action, rng.random()), rng.choice((1, 2, 4, 8)), rng.gauss(0, 1))
    return grower


def chains(n: int, levels: int) -> Grower:
    """Best-of-n: `n` whole trajectories of jumps of 1."""
    grower = Grower()
    for i in range(n):
        grower.rollout(grower.node(None, levels, "seed", i / n), 1, i / n)
    return grower


def result_of(grower: Grower, *, prompt: str = "a red circle", images: int = 2, size: int = 64, **fields) -> SearchResult:
    """The result of a search with this tree."""
    best = sorted(grower.finished, key=lambda candidate: -candidate.reward)[:images]
    levels = max((node["level"] for node in grower.nodes), default=30)
    pictures = [Image.new("RGB", (size, size), (40 * i, 90, 200)) for i in range(len(best))]
    values = {
        "prompt": prompt,
        "model": "scenes",
        "config": SearchConfig(algorithm="mcts", budget=54321, levels=levels, reward="jpeg"),
        "images": pictures,
        "candidates": best,
        "first": Image.new("RGB", (size, size), "white") if grower.finished else None,
        "mean_reward": None,
        "verdicts": (),
        "ledger": Ledger(12345, 24690, 678, 679, 3, 78.25, 70.5),
        "tree": {"nodes": grower.nodes},
        "finished": tuple(grower.finished),
    }
    return SearchResult(**{**values, **fields})
