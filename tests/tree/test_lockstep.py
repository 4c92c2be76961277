"""The tree against a slow reference that counts everything anew: the same choices and figures at every step."""

import random

import pytest

from mcts_ray.tree import State, Tree, Widening, select
from mcts_ray.tree.backup import make_rule
from tests.tree.reference import ReferenceTree

T = 9


def states(rng, level):
    """A new child at a lower level and its roll-out, as (level, k, phi, open)."""
    k = rng.choice([1, 2, 3])
    path = [(max(0, level - k), min(k, level), 0.5)]
    while path[-1][0] > 0:
        step = min(rng.choice([1, 2]), path[-1][0])
        path.append((path[-1][0] - step, step, 0.0))
    return [(level, k, phi, level > 1) for level, k, phi in path]


@pytest.mark.parametrize("backup, across", [("mean", "max"), ("max", "max"), ("soft", "max"), ("soft", "mean")])
@pytest.mark.parametrize("c, a", [(1.0, 0.25), (2.0, 0.5)])
@pytest.mark.parametrize("room", [1, 5])
def test_choices_and_figures_are_those_of_the_reference(backup, across, c, a, room):
    rng = random.Random(f"{backup}{across}{c}{room}")
    beta, widening = 0.7, Widening(c, a)
    slow = ReferenceTree(beta, c, a, backup, across=across)
    fast = Tree("root", T, make_rule(backup, 4.0, across))
    out = []
    for step in range(60):
        limit = rng.choice([None, None, 5])  # now and then only low levels can be afforded
        if len(out) < room:
            chosen = select(fast, beta, widening, lambda node: limit is None or (node is not fast.root and node.level <= limit))
            expected = slow.select(lambda level: limit is None or (level is not None and level <= limit))
            assert (chosen and chosen.id) == expected
            if chosen is not None:
                path = states(rng, chosen.level)
                ids = [f"{step:03d}.{i}" for i in range(len(path))]
                head, *tail = [State(id, level, k, phi, open) for id, (level, k, phi, open) in zip(ids, path)]
                out.append((fast.dispatch(chosen, head), tail))
                slow.dispatch(chosen.id, head.id, head.level, head.k, head.phi, head.open)
        if out and (len(out) == room or rng.random() < 0.3):
            child, tail = out.pop(rng.randrange(len(out)))
            if rng.random() < 0.15 and child.parent.lost < 2:
                fast.lose(child)
                slow.lose(child.id)
            else:
                reward = rng.gauss(0, 1)
                fast.complete(child, tail, reward)
                slow.complete(child.id, [(s.id, s.level, s.k, s.open) for s in tail], reward)
        same_figures(fast, slow)
    assert len(fast) > 80


def same_figures(fast, slow):
    assert {node.id for node in fast} == set(slow.nodes) - {"root"}
    for node in (fast.root, *fast):
        assert node.visits == slow.N(node.id) and node.in_flight == slow.O(node.id)
        if node.visits:
            assert node.value == pytest.approx(slow.value(node.id), abs=1e-9)
        if any(child.visits for child in node.children):
            assert node.fresh == pytest.approx(slow.fresh(node.id), abs=1e-9)
    assert fast.spread.sd == pytest.approx(slow.spread(), abs=1e-9)
