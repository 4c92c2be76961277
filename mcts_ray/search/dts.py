"""Diffusion tree sampling and search, DTS and DTS* (Jain et al., arXiv 2506.20701).

The target is p(x_0) exp(lambda r(x_0)), p being what the sampler makes with its noise. The tree stays: its root has the initial
noises as children, and every state has children drawn from p(x_s | x_a), each from the (x0, eps) that the state keeps, so
that one more child costs only the calls below it. One iteration:

    select    down from the root. A node with fewer than C N^a children is widened; any other one is left for a child,
              DTS   with probability prop to exp(lambda v_i)        DTS*   argmax v_i + c sqrt(ln N_parent / N_i)
    expand    one fresh child of the node, and a roll-out with noise down to x_0; every state of it joins the tree
    backup    v(x_0) = r,   v(x_a) = (1/lambda) [logsumexp_i lambda v_i - ln n]: the mean over n children, so that more
              children do not raise it;   N += 1 on the path

Where selection ends in a finished image, N += 1 is all there is to do, and it costs nothing. Iterations in flight count in N and
leave the values alone. The paper's settings for images are not published; lambda = 1, C = 1, a = 1/2, c = 1 are those of a
third party. Children whose first return was unlucky are seldom seen again, so by Boltzmann selection values stay below the exact
ones for long, the more so the larger lambda is against the spread of rewards. A state whose next jump ends at level 0 is not branched: noise changes nothing any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcts_ray.search.base import Candidate, Cost, Edge, Outcome, Work
from mcts_ray.search.distinct import Families
from mcts_ray.search.ids import jump_id, root_id, seed_id
from mcts_ray.search.trajectories import Trajectories
from mcts_ray.tree.backup import Soft
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import State, Tree
from mcts_ray.tree.widen import Widening

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

PATIENCE = 1000  # finished images that selection may end in, one after the other, before there is nothing to expand


class DTS(Trajectories):
    """Diffusion tree sampling on the ask/tell units. strength: lambda."""

    def __init__(self, *args, strength: float = 1.0, widening: Widening = Widening(1.0, 0.5), **options) -> None:
        super().__init__(*args, **options)
        self.strength = strength
        self.widening = widening
        self.tree = Tree(root_id(self.seed), self.setting.levels, Soft(strength))
        self._place = {level: place for place, level in enumerate(self.path)}
        self._least = min([self.trajectory_nfe, *(self._nfe(place + 1) for place in self._place.values() if self._opens(place))])
        self._simulations: dict[str, Node] = {}
        self._count = 0
        self._families = Families(self.setting.levels)

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {"strength": config.strength, "widening": Widening(config.widen_c, config.widen_a)}

    # ask -----------------------------------------------------------------------------------------------------------

    def _propose(self) -> Work | None:
        node, finished = self._select()
        if node is None:
            return None
        for leaf in finished:
            _count(leaf, 1)
        return self._expand(node)

    def _select(self) -> tuple[Node | None, list[Node]]:
        """The node to widen (None: none for now), and the finished images in which selection ended before. Changes nothing."""
        finished: list[Node] = []
        if self.nfe_left < self._least or self.decodes_left < 1:
            return None, finished
        rng = np.random.default_rng([self.seed, 0xD75, self._count])
        node = self._descend(rng)
        while node and node.terminal and len(finished) < PATIENCE:
            finished.append(node)
            _count(node, 1)
            node = self._descend(rng)
        for leaf in finished:
            _count(leaf, -1)
        return (None if node and node.terminal else node), finished

    def _descend(self, rng: np.random.Generator) -> Node | None:
        """The node to widen, or the finished image, to which selection leads; None if it must wait for what is in flight."""
        node = self.tree.root
        while not node.terminal and not self._widens(node):
            children = [child for child in node.children if child.returns]
            if not children:
                return None
            node = self._choose(node, children, rng)
        return node

    def _widens(self, node: Node) -> bool:
        return node.open and self.widening.permits(node) and self._nfe(self._next(node)) <= self.nfe_left

    def _choose(self, node: Node, children: Sequence[Node], rng: np.random.Generator) -> Node:
        return boltzmann(children, self.strength, rng)

    def _expand(self, parent: Node) -> Work:
        """Reserve a new child of `parent`; its unit walks from there to level 0."""
        place = self._next(parent)
        seed = parent is self.tree.root
        if seed:
            first = Edge(seed_id(self.seed, parent.draws), self.path[0])
        else:
            k = parent.level - self.path[place]
            first = Edge(jump_id(parent.id, k, parent.draws), self.path[place], self.phi(parent.level, self.path[place]))
        edges = self.edges_from(first, self.path[place + 1 :])
        states = self._states(edges)
        child = self.tree.dispatch(parent, states[0])
        name = f"{self.id}/{self._count}"
        self._count += 1
        self._simulations[name] = child
        keep = tuple(state.id for state in states if state.open)
        return Work(name, self.id, self.setting, None if seed else parent.id, "seed" if seed else "jump", edges, keep)

    def _states(self, edges: Sequence[Edge]) -> list[State]:
        """The states of a walk as the tree knows them."""
        states = []
        for edge in edges:
            place = self._place[edge.level]
            k = self.path[place - 1] - edge.level if place else 0
            states.append(State(edge.node, edge.level, k, edge.phi, self._opens(place)))
        return states

    def _opens(self, place: int) -> bool:
        """Whether the state at this place of the path may be branched."""
        return place + 2 < len(self.path) and self.phi(self.path[place], self.path[place + 1]) > 0

    def _next(self, node: Node) -> int:
        """The place on the path of the children of a node."""
        return 0 if node is self.tree.root else self._place[node.level] + 1

    def _nfe(self, place: int) -> int:
        """NFE of a walk from this place of the path to level 0."""
        return len(self.path) - 1 - place

    # tell ----------------------------------------------------------------------------------------------------------

    def _apply(self, work: Work, outcome: Outcome) -> None:
        child = self._simulations.pop(work.id)
        if outcome.error is not None:
            self.tree.lose(child)
        else:
            self._families.add(self.tree.complete(child, self._states(work.edges)[1:], outcome.reward))

    def halt(self, costs: Iterable[Cost] = ()) -> None:
        super().halt(costs)
        for child in self._simulations.values():
            self.tree.lose(child)
        self._simulations.clear()

    def _spent(self) -> bool:
        return self._select()[0] is None

    # results -------------------------------------------------------------------------------------------------------

    def best(self, n: int) -> list[Candidate]:
        """The best images that differ: see `mcts_ray.search.distinct`."""
        return self._families.best(self.finished, n)

    def descend(self, rng: np.random.Generator) -> Candidate:
        """A draw of the tree: from the root to a finished image, each child with probability prop to exp(lambda v_i)."""
        assert self.finished, "nothing to draw from"
        node = self.tree.root
        while not node.terminal:
            node = boltzmann([child for child in node.children if child.returns], self.strength, rng)
        return next(candidate for candidate in self.finished if candidate.node == node.id)

    def nodes(self) -> list[dict]:
        """Every node, those in flight included (0 visits, no value)."""
        return self.tree.rows()


class DTSStar(DTS):
    """Diffusion tree search: greedy selection with an exploration bonus. explore: c."""

    def __init__(self, *args, explore: float = 1.0, **options) -> None:
        super().__init__(*args, **options)
        self.explore = explore

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        return {**super().options(config), "explore": config.explore}

    def _choose(self, node: Node, children: Sequence[Node], rng: np.random.Generator) -> Node:
        log_visits = math.log(_visits(node))
        return min(children, key=lambda c: (-c.value - self.explore * math.sqrt(log_visits / _visits(c)), c.id))


def boltzmann(children: Sequence[Node], strength: float, rng: np.random.Generator) -> Node:
    """One of the children, with probability prop to exp(strength v)."""
    if len(children) == 1:
        return children[0]
    top = max(child.value for child in children)
    sums = np.cumsum([math.exp(strength * (child.value - top)) for child in children])
    return children[min(int(np.searchsorted(sums, rng.random() * sums[-1], "right")), len(children) - 1)]


def _visits(node: Node) -> int:
    """N, iterations in flight included."""
    return node.visits + node.in_flight


def _count(leaf: Node, by: int) -> None:
    for node in leaf.path():
        node.visits += by
