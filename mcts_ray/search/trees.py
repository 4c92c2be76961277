"""What searches share whose units are simulations in one tree: a new child, and a walk from it down to an image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from mcts_ray.search.base import Candidate, Cost, Search, Work
from mcts_ray.search.distinct import Families
from mcts_ray.tree.node import Node
from mcts_ray.tree.tree import State, Tree


class TreeSearch(Search):
    """A search that selects a place in its `tree`, dispatches a simulation there, and takes in what it returns.

    Subclasses call `_plant` when they are made and write `_select`, which changes nothing and depends on nothing but the tree
    and what is left of the budget: its answer is kept until one of them changes.
    """

    def _plant(self, tree: Tree) -> None:
        """Begin with this tree, which is still empty."""
        self.tree = tree
        self._simulations: dict[str, Node] = {}
        self._count = 0
        self._families = Families(self.setting.levels)
        self._known: tuple[Any] | None = None

    @abstractmethod
    def _select(self) -> Any:
        """Where the next simulation starts; None: nowhere, for now."""

    def _selected(self) -> Any:
        """What `_select` says, asked once for each state of the search."""
        if self._known is None:
            self._known = (self._select(),)
        return self._known[0]

    def _dispatch(self, parent: Node, state: State, particles: tuple[str, ...] = ()) -> tuple[str, Node]:
        """Reserve a new child of `parent` for the next simulation: the name of its unit, and the child."""
        name = f"{self.id}/{self._count}"
        self._count += 1
        self._known = None
        self._simulations[name] = self.tree.dispatch(parent, state, particles)
        return name, self._simulations[name]

    def _returned(self, work: Work) -> Node:
        """The child of a simulation that has come back or failed, which is no longer in flight."""
        self._known = None
        return self._simulations.pop(work.id)

    def halt(self, costs: Iterable[Cost] = ()) -> None:
        super().halt(costs)
        for child in self._simulations.values():
            self.tree.lose(child)
        self._simulations.clear()
        self._known = None

    def _spent(self) -> bool:
        return self._selected() is None

    def best(self, n: int) -> list[Candidate]:
        """The best images that differ: see `mcts_ray.search.distinct`."""
        return self._families.best(self.finished, n)

    def nodes(self) -> list[dict]:
        """Every node, those in flight included (0 visits, no value); a fused one names its `particles`."""
        return self.tree.rows()
