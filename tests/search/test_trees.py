"""What the tree searches share, on each of them."""

import pytest

from mcts_ray.search import DTS, MCTS, DTSStar, Setting
from mcts_ray.search.branching import Branching
from mcts_ray.tree import Widening

from .fake import carry_out, outcome_of

T = 10
SETTING = Setting("a red circle", levels=T)


def make(cls, budget=200):
    if cls is MCTS:
        return MCTS("s", SETTING, budget, Branching(T, 0.5, 3))
    return cls("s", SETTING, budget, phi=lambda a, s: 0.3, widening=Widening(1.0, 0.5))


ALL = pytest.mark.parametrize("cls", [MCTS, DTS, DTSStar])


def counted(cls):
    """The class, with a list of what its `_select` has answered."""

    class Counted(cls):
        def _select(self):
            self.answers = [*getattr(self, "answers", []), super()._select()]
            return self.answers[-1]

    return Counted


@ALL
def test_selection_is_made_once_for_each_state_of_the_search(cls):
    """`done` and `ask` both need it; an outcome changes what it would say."""
    search = counted(cls)("s", SETTING, 200, *([Branching(T, 0.5, 3)] if cls is MCTS else []))
    works = carry_out(search, 1)
    assert len(search.answers) == len(works) + 1 and search.answers[-1] is None


@ALL
def test_what_is_kept_of_a_selection_never_outlives_its_state(cls):
    """A search that is looked at between all steps goes the same way as one that is not."""
    plain, watched = make(cls), make(cls)
    carry_out(plain, 3)
    while not watched.done:
        for work in watched.ask(3):
            watched._selected()
            watched.tell(outcome_of(work))
            watched._selected()
    assert watched.nodes() == plain.nodes() and watched.ledger == plain.ledger


@ALL
def test_units_are_named_in_order_and_halting_takes_back_those_in_flight(cls):
    search = make(cls)
    for _ in range(3):
        search.tell(outcome_of(search.ask(1)[0]))
    out = search.ask(2)
    assert out and [work.id for work in out] == [f"s/{3 + index}" for index in range(len(out))]
    search.halt()
    assert search.tree.root.in_flight == 0 and len(search.nodes()) == sum(node.visits > 0 for node in search.tree)
    assert {candidate.node for candidate in search.best(9)} <= {node.id for node in search.tree if node.terminal}
