"""What an audit has carried out: walks that are scored on the way, children of one state with their completions, and all jump paths.

They are searches like others (ask/tell), so every executor carries them out. Node ids are hashes of where a node comes from, so
whoever reads the results can name the nodes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mcts_ray.search.base import Edge, Outcome, Work
from mcts_ray.search.best_of_n import BestOfN
from mcts_ray.search.branching import Branching
from mcts_ray.search.ids import jump_id, seed_id
from mcts_ray.search.rounds import Rounds, Script


class Walks(BestOfN):
    """Independent trajectories through every level; states at the levels in `scored` are scored (`scores`, by node)."""

    def __init__(self, *args, scored: Sequence[int] = (), **options) -> None:
        super().__init__(*args, **options)
        self.scored = frozenset(scored)

    def _propose(self) -> Work | None:
        work = super()._propose()
        return work and replace(work, scored=tuple(edge.node for edge in work.edges if edge.level in self.scored))

    def _apply(self, work: Work, outcome: Outcome) -> None:
        super()._apply(work, outcome)
        self.scores |= {node: score for node, score in outcome.scores if score is not None}


def trunk(seed: int, T: int, lowest: int) -> list[Edge]:
    """The first seed of a job and its deterministic walk by single levels, down to level `lowest`."""
    edges = [Edge(seed_id(seed, 0), T)]
    for level in range(T - 1, lowest - 1, -1):
        edges.append(Edge(jump_id(edges[-1].node, 1), level))
    return edges


def children_of(parent: str, count: int) -> list[str]:
    """The nodes of `count` children by one single-level jump with noise; the walk of the trunk goes through none of them."""
    return [jump_id(parent, 1, 1 + index) for index in range(count)]


def completion(child: str, level: int, index: int) -> list[str]:
    """The nodes of one completion of a child at `level`, by single levels down to 0."""
    nodes = [jump_id(child, 1, index)]
    for _ in range(level - 1):
        nodes.append(jump_id(nodes[-1], 1))
    return nodes


class Siblings(Rounds):
    """On one trajectory, at each of the levels `parents`: `children` of that state, each scored and completed `completions` times.

    A child is made as mcts makes it, by a jump of one level with the angle of `branching`. Completions draw fresh noise at
    every level (`phi` of the search, DDPM in an audit). completions 0: children are scored and left.
    """

    def __init__(self, *args, parents: Sequence[int], children: int, completions: int, branching: Branching, **options) -> None:
        super().__init__(*args, **options)
        self.parents = tuple(parents)
        self.children = children
        self.completions = completions
        self.branching = branching

    @staticmethod
    def nfe(T: int, parents: Sequence[int], children: int, completions: int) -> int:
        """What it costs."""
        return T - min(parents) + 1 + children * sum(1 + completions * (level - 2) for level in parents)

    def _script(self) -> Script:
        edges = trunk(self.seed, self.setting.levels, min(self.parents))
        parents = {edge.level: edge.node for edge in edges if edge.level in self.parents}
        yield [self._unit(None, edges, tuple(parents.values()))]
        born = [(level, node) for level, parent in parents.items() for node in children_of(parent, self.children)]
        angles = {level: self.branching.angle(level) for level in parents}
        yield [self._unit(parents[a], [Edge(node, a - 1, angles[a])], (node,), (node,)) for a, node in born]
        if self.completions:
            yield [self._complete(node, a - 1, index) for a, node in born for index in range(self.completions)]

    def _complete(self, child: str, level: int, index: int) -> Work:
        nodes = completion(child, level, index)
        levels = range(level - 1, -1, -1)
        return self._unit(child, [Edge(node, s, self.phi(s + 1, s)) for node, s in zip(nodes, levels, strict=True)])

    def _unit(self, parent: str | None, edges: Sequence[Edge], keep: tuple[str, ...] = (), scored: tuple[str, ...] = ()) -> Work:
        self._count += 1
        action = "jump" if parent else "seed"
        return Work(f"{self.id}/{self._count - 1}", self.id, self.setting, parent, action, tuple(edges), keep, scored=scored)


class JumpPaths(Rounds):
    """Every way from `seeds` initial noises to an image by jumps of the sizes `jumps`, without noise, every state scored.

    Ways that begin alike share their states: a state costs one NFE, so T levels cost as many as there are ways to any level above 0.
    """

    def __init__(self, *args, seeds: int, jumps: Sequence[int], **options) -> None:
        super().__init__(*args, **options)
        self.seeds = seeds
        self.jumps = tuple(jumps)

    @staticmethod
    def ways(T: int, jumps: Sequence[int]) -> list[int]:
        """How many ways there are down to each level 0 ... T."""
        ways = [0] * T + [1]
        for level in range(T - 1, -1, -1):
            ways[level] = sum(ways[level + k] for k in jumps if level + k <= T)
        return ways

    @classmethod
    def nfe(cls, T: int, jumps: Sequence[int], seeds: int) -> int:
        """What it costs."""
        return seeds * sum(cls.ways(T, jumps)[1:])

    def _script(self) -> Script:
        T = self.setting.levels
        reached: dict[int, list[tuple[str | None, str]]] = {level: [] for level in range(T + 1)}
        reached[T] = [(None, seed_id(self.seed, index)) for index in range(self.seeds)]
        for level in range(T, -1, -1):
            yield [self._step(parent, node, level) for parent, node in reached[level]]
            for k, node in self._onward(reached[level], level):
                reached[level - k].append((node, jump_id(node, k)))

    def _onward(self, states: Sequence[tuple[str | None, str]], level: int) -> Iterator[tuple[int, str]]:
        return ((k, node) for _, node in states for k in self.jumps if k <= level)

    def _step(self, parent: str | None, node: str, level: int) -> Work:
        self._count += 1
        kept = (node,) if level else ()
        action = "jump" if parent else "seed"
        return Work(f"{self.id}/{self._count - 1}", self.id, self.setting, parent, action, (Edge(node, level),), kept, scored=kept)
