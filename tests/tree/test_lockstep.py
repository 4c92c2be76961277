"""The tree against a slow reference that counts everything anew: the same choices and figures at every step."""

import random
from dataclasses import asdict

import pytest

from mcts_ray.tree import Fusing, Fusions, Offer, State, Tree, Widening, select
from mcts_ray.tree.backup import make_rule
from tests.tree.reference import ReferenceTree

T = 9
FUSINGS = [
    ("innovation", 6, 1, 1, False),
    ("innovation", 12, 3, 1, False),
    ("signed", 6, 2, 2, True),
    ("signed", 9, 1, 1, True),
]


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
            assert (chosen and (chosen.id, None)) == expected
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


@pytest.mark.parametrize("mode, after, most, depth, retire", FUSINGS)
@pytest.mark.parametrize("backup", ["mean", "soft"])
@pytest.mark.parametrize("room", [1, 5])
def test_fusions_are_those_of_the_reference(mode, after, most, depth, retire, backup, room):
    rng = random.Random(f"{mode}{after}{backup}{room}")
    beta, widening, fusing = 0.4, Widening(4.0, 0.5), Fusing(mode, after, most, depth, retire)
    slow = ReferenceTree(beta, widening.c, widening.a, backup, fusing=asdict(fusing))
    fast, fusions = Tree("root", T, make_rule(backup, 4.0, "max")), Fusions(fusing)
    out, fused = [], 0

    def sibling(level):
        level = T if level is None else level
        return level - 2, 2, 0.5

    def offers(node):
        found = fusions.consider(node, State("", *sibling(node.level)))
        return found if isinstance(found, Offer) else None

    for step in range(110):
        if len(out) < room:
            chosen, expected = select(fast, beta, widening, lambda node: True, offers), slow.select(sibling=sibling)
            offer = chosen if isinstance(chosen, Offer) else None
            parent = offer.parent if offer else chosen
            assert (parent.id, offer is None) == (expected[0], expected[1] is None)
            level, k, phi = sibling(parent.level)
            levels = [level, *([level // 2] if level > 2 else []), 0]
            tail = [State(f"{step:03d}.{s}", s, a - s, 0.0, s > 3) for a, s in zip(levels, levels[1:])]
            head = State(f"{step:03d}", level, k, phi, level > 3)
            child = fast.dispatch(parent, head, offer.particles if offer else ())
            slow.dispatch(parent.id, head.id, level, k, phi, head.open, expected[1])
            out.append((child, tail))
            if offer:
                fusions.dispatch(offer, child)
                fused += 1
                assert offer.particles == expected[1]["particles"]
                assert offer.weights == pytest.approx(expected[1]["weights"], abs=2e-6)
                assert offer.value == pytest.approx(expected[1]["value"], abs=1e-5)
        if len(out) == room or rng.random() < 0.3:
            child, tail = out.pop(rng.randrange(len(out)))
            if child.particles and rng.random() < 0.3:
                fusions.take_back(child)
                fast.take_back(child)
                slow.lose(child.id)
            else:
                reward = rng.gauss(0, 1)
                fast.complete(child, tail, reward)
                slow.complete(child.id, [(s.id, s.level, s.k, s.open) for s in tail], reward)
                if child.particles:
                    fusions.complete(child, reward)
            assert fusions.kappa == pytest.approx(slow.kappa(), abs=1e-4)
        if step % 10 == 0:
            same_figures(fast, slow)
    assert fused


def same_figures(fast, slow):
    assert {node.id for node in fast} == set(slow.nodes) - {"root"}
    for node in (fast.root, *fast):
        assert node.visits == slow.N(node.id) and node.in_flight == slow.O(node.id)
        if node.visits:
            assert node.value == pytest.approx(slow.value(node.id), abs=1e-9)
        if any(child.visits and not child.particles for child in node.children):
            assert node.fresh == pytest.approx(slow.fresh(node.id), abs=1e-9)
    assert fast.spread.sd == pytest.approx(slow.spread(), abs=1e-9)
