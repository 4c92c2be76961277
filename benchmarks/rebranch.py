"""What a branch off a finished path brings, by the level at which it leaves and by its angle: the guide, on hard validation prompts.

    python -m benchmarks.rebranch [--prompts 40]

24 seeds of each prompt on ten Align Your Steps levels; from each of the 3 best paths, at every level and for every phi, 6 children that
are rolled out without noise. For each level and phi: the mean of child minus path, how often a child is better, and what it wins over the
best image so far, E[max(0, child - best)], for a call; the same of one more seed beside it. 95 % bootstrap intervals over prompts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from benchmarks.common import interval, write
from mcts_ray import SearchConfig, Searcher
from mcts_ray.executor.backend import Task
from mcts_ray.scenes.prompts import prompts
from mcts_ray.search.base import Edge, Work
from mcts_ray.search.ids import jump_id, seed_id
from mcts_ray.search.rounds import Rounds, Script

LEVELS, SEEDS, PATHS, CHILDREN = 10, 24, 3, 6
PHIS = (0.4, 0.7, 1.0, 1.3)
PARENTS = range(2, LEVELS)


class Branches(Rounds):
    """Seeds, then children of the best paths; `children`: of each, (path, parent's level, phi) by the node of its image."""

    def _script(self) -> Script:
        paths = []
        for index in range(SEEDS):
            edges = [Edge(seed_id(self.seed, index), LEVELS)]
            for level in range(LEVELS - 1, -1, -1):
                edges.append(Edge(jump_id(edges[-1].node, 1), level))
            paths.append(edges)
        self.begun = yield [self._unit(None, edges, tuple(edge.node for edge in edges[:-1])) for edges in paths]
        best = sorted(range(SEEDS), key=lambda index: -self.begun[index].value)[:PATHS]
        self.tops = [self.begun[index].value for index in best]
        self.children, units = {}, []
        for rank, index in enumerate(best):
            for parent in paths[index]:
                for angle in PHIS if parent.level in PARENTS else ():
                    for child in range(CHILDREN):
                        draw = 1 + len(PHIS) * child + PHIS.index(angle)
                        edges = [Edge(jump_id(parent.node, 1, draw), parent.level - 1, angle)]
                        for level in range(parent.level - 2, -1, -1):
                            edges.append(Edge(jump_id(edges[-1].node, 1), level))
                        self.children[edges[-1].node] = (rank, parent.level, angle)
                        units.append(self._unit(parent.node, edges))
        self.ends = yield units

    def _unit(self, parent: str | None, edges: list[Edge], keep: tuple[str, ...] = ()) -> Work:
        self._count += 1
        name, action = f"{self.id}/{self._count - 1}", "jump" if parent else "seed"
        return Work(name, self.id, self.setting, parent, action, tuple(edges), keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    args = parser.parse_args()
    texts = prompts("hard", "validation")[: args.prompts]
    budget = SEEDS * LEVELS + PATHS * CHILDREN * len(PHIS) * sum(level - 1 for level in PARENTS)
    searcher = Searcher.from_pretrained("scenes", executor="local")
    rows: dict[tuple[int, float], list[list[float]]] = defaultdict(list)
    seeds = []
    for at in range(0, len(texts), 8):
        plan = searcher.backend.plan(texts[at : at + 8], SearchConfig(levels=LEVELS, grid="ays", budget=budget, in_flight=budget), None)
        searches = [Branches(s.id, s.setting, budget, seed=s.seed, phi=s.phi) for s in plan.searches]
        _, error = searcher.backend.run([Task(search, 64, 1) for search in searches], plan, "scenes")
        if error:
            raise error
        for search in searches:
            read(search, rows, seeds)
        print(f"{at + len(searches)} of {len(texts)} prompts", flush=True)
    table = [summary(level, phi, rows[level, phi]) for level in PARENTS for phi in PHIS]
    about = {"prompts": len(texts), "split": "validation", "levels": LEVELS, "grid": "ays", "seeds": SEEDS, "paths": PATHS}
    fresh = {"seed_gain_per_nfe": interval(np.array(seeds) / LEVELS)}
    write("rebranch", {**about, "children": CHILDREN, "interval": "95 % bootstrap over prompts: [mean, low, high]", **fresh, "rows": table})


def read(search: Branches, rows: dict, seeds: list[float]) -> None:
    """Add one prompt: for each level and phi [child - path, share better, gain over the best], and what a 24th seed brings to 23."""
    values = [state.value for state in search.begun]
    seeds.append(float(np.mean([max(0.0, value - max(values[:at] + values[at + 1 :])) for at, value in enumerate(values)])))
    top = max(values)
    found = defaultdict(list)
    for end in search.ends:
        rank, level, phi = search.children[end.node]
        path = search.tops[rank]
        found[level, phi].append([end.value - path, end.value > path, max(0.0, end.value - top)])
    for key, children in found.items():
        rows[key].append(np.mean(children, 0))


def summary(level: int, phi: float, children: list) -> dict:
    """One line of the table; a child from `level` costs level - 1 calls."""
    difference, better, gain = np.array(children).T
    row = {"level": level, "phi": phi, "difference": interval(difference), "better": interval(better)}
    return row | {"gain_per_nfe": interval(gain / (level - 1))}


if __name__ == "__main__":
    main()
