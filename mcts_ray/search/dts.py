"""Diffusion tree sampling and search, DTS and DTS* (Jain et al., arXiv 2506.20701, algorithm 1 and appendix F).

The target is p(x_0) exp(lambda r(x_0)), p being what the sampler makes with its noise. The tree stays: its root has the initial
noises as children, and states at a few levels have children drawn from p(x_s | x_a), each from the (x0, eps) that the state keeps,
so that one more child costs only the calls below it. One iteration:

    select    down from the root. A node with fewer than C N^a children is widened; any other one is left for a child,
              DTS   with probability prop to exp(lambda v_i)        DTS*   argmax v_i + c sqrt(ln N_parent / N_i)
    expand    one fresh child of the node, and a roll-out with noise down to x_0; every state of it joins the tree
    backup    v(x_0) = r,   v(x_a) = (1/lambda) [logsumexp_i lambda v_i - ln n]: the mean over n children, so that more
              children do not raise it;   N += 1 on the path

Where selection ends in a finished image, N += 1 is all there is to do, and it costs nothing. Iterations in flight count in N and
leave the values alone. The paper's constants for images: C = 2, a = 4/5, and paths branch at 4/5, 3/5, 2/5 and 1/5 of the levels
besides the root. Below 32 seeds such a tree has not begun to choose and is best-of-n with noise; C = 1, a = 1/2 choose sooner.
c = 1 is that of a third party. A state whose next jump ends at level 0 is not branched: noise changes nothing any more.

How fast values approach the exact ones. With n children drawn and visited whatever their returns, exp(lambda v) is unbiased. But
selection looks at the estimates that it makes: a child with an unlucky first return is seldom seen again and keeps it, one with a
lucky return is corrected, so that v is too low until the mean visits of a child, N^(1-a) / C, exceed about mean(w) / w_i, w =
exp(lambda v). Every level of branching repeats this with the visits that are left to it, which is why few places are better than
many, and small lambda times spread of rewards better than large. With the paper's constants a bias
stays flat within any budget that was tried (root too low by .14 at 2,560 and at 10,240 NFE, T = 8, lambda = 1). What does approach the
exact values is one place to branch besides the root: branchings = 1 and a = 1/2, where the root's bias falls from .27 to .05 and its root
mean square error from .54 to .09 between 8 and 256 trajectories' worth (lambda = 2). docs/lab.md has all figures, and
tests/search/test_dts_exact.py repeats the main ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mcts_ray.search.base import Candidate, Edge, Outcome, Work
from mcts_ray.search.ids import jump_id, root_id, seed_id
from mcts_ray.search.trajectories import Trajectories
from mcts_ray.search.trees import TreeSearch
from mcts_ray.tree.backup import Soft
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import State, Tree
from mcts_ray.tree.widen import Widening

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

PATIENCE = 1000  # finished images that selection may end in, one after the other, before there is nothing to expand


class DTS(TreeSearch, Trajectories):
    """Diffusion tree sampling on the ask/tell units.

    strength: lambda. branchings: at how many places, spread evenly over the calls of a trajectory, paths may branch besides the
    root; with as many as there are calls, or more, at every state.
    """

    def __init__(
        self, *args, strength: float = 1.0, widening: Widening = Widening(2.0, 0.8), branchings: int = 4, **options
    ) -> None:
        super().__init__(*args, **options)
        self.strength = strength
        self.widening = widening
        self._plant(Tree(root_id(self.seed), self.setting.levels, Soft(strength)))
        self._place = {level: place for place, level in enumerate(self.path)}
        calls = self.trajectory_nfe
        evenly = {round(j * calls / (branchings + 1)) for j in range(1, branchings + 1)}
        self._marks = evenly if branchings < calls else set(range(calls))
        self._least = min([calls, *(self._nfe(place + 1) for place in self._place.values() if self._opens(place))])
        self._images: dict[str, Candidate] = {}

    @classmethod
    def options(cls, config: SearchConfig) -> dict[str, Any]:
        widening = Widening(config.widen_c, config.widen_a)
        return {"strength": config.strength, "widening": widening, "branchings": config.branchings}

    # ask -----------------------------------------------------------------------------------------------------------

    def _propose(self) -> Work | None:
        selected = self._selected()
        if selected is None:
            return None
        node, finished = selected
        for leaf in finished:
            _count(leaf, 1)
        return self._expand(node)

    def _select(self) -> tuple[Node, list[Node]] | None:
        """The node to widen, and the finished images in which selection ended before."""
        finished: list[Node] = []
        if self.nfe_left < self._least or self.decodes_left < 1:
            return None
        rng = np.random.default_rng([self.seed, 0xD75, self._count])
        node = self._descend(rng)
        while node and node.terminal and len(finished) < PATIENCE:
            finished.append(node)
            _count(node, 1)
            node = self._descend(rng)
        for leaf in finished:
            _count(leaf, -1)
        return None if node is None or node.terminal else (node, finished)

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
        name, _ = self._dispatch(parent, states[0])
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
        return place in self._marks and place + 2 < len(self.path) and self.phi(self.path[place], self.path[place + 1]) > 0

    def _next(self, node: Node) -> int:
        """The place on the path of the children of a node."""
        return 0 if node is self.tree.root else self._place[node.level] + 1

    def _nfe(self, place: int) -> int:
        """NFE of a walk from this place of the path to level 0."""
        return len(self.path) - 1 - place

    # tell ----------------------------------------------------------------------------------------------------------

    def _apply(self, work: Work, outcome: Outcome) -> None:
        child = self._returned(work)
        if outcome.error is not None:
            self.tree.lose(child)
            return
        leaf = self.tree.complete(child, self._states(work.edges)[1:], outcome.reward)
        self._families.add(leaf)
        self._images[leaf.id] = self.finished[-1]

    # results -------------------------------------------------------------------------------------------------------

    def descend(self, rng: np.random.Generator) -> Candidate:
        """A draw of the tree: from the root to a finished image, each child with probability prop to exp(lambda v_i)."""
        assert self.finished, "nothing to draw from"
        node = self.tree.root
        while not node.terminal:
            node = boltzmann([child for child in node.children if child.returns], self.strength, rng)
        return self._images[node.id]


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
