"""Walks that stop at the states that may be branched, until values choose them to go on."""

import json
from dataclasses import replace

import pytest

from mcts_ray import SearchConfig
from mcts_ray.checks import find_calibration
from mcts_ray.gain import Constant
from mcts_ray.search.ids import jump_id
from mcts_ray.search.journal import replay
from mcts_ray.tree import Fusing, Prior, Pruning, Soft, Widening, maximum

from .fake import carry_out, carry_out_in_flight, journalled, outcome_of, worth
from .test_mcts import T, make

EVERY = [
    dict(),
    dict(policy=Constant(2), rule=maximum),
    dict(rule=Soft(4.0), widening=Widening(4.0), beta=2.0),
    dict(seeds=6, fusing=Fusing("signed", after=4), widening=Widening(4.0)),
    dict(seeds=6, pruning=Pruning(("statistical", "stages", "memory"), z=0.2, least=2), widening=Widening(4.0)),
]


def prior_of(level, score):
    return Prior(score, 0.1, 0.2)


def waiting(budget=200, **options):
    return make(budget, **{"wait": True, "scored": True, "calibration": prior_of, "share": 1.0, **options})


def own_walk(node):
    """What the walk that made `node` has come to: its reward, or what is promised where it stands."""
    while node.children:
        node = node.children[0]
    return worth(node.id) if node.terminal else node.promised


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("room", [1, 4, 50])
def test_budgets_hold_and_values_are_those_of_rewards_and_promises(options, room):
    search = waiting(**options)
    works = carry_out_in_flight(search, room)
    tree = search.tree
    assert search.ledger.nfe == sum(work.nfe for work in works) <= 200
    assert search.finished and len(search.finished) == sum(node.terminal for node in tree)
    assert any(not work.terminal for work in works)
    remade = search.pruning.get("remade", 0)
    assert search.ledger.nfe == sum(node.level > 0 for node in tree) + remade
    for node in [*tree, tree.root]:
        ends = [end for end in below(node) if end.terminal or end.waiting]
        assert node.in_flight == 0 and node.returns == len(ends) <= node.visits
        assert node.total == pytest.approx(sum(worth(end.id) if end.terminal else end.promised for end in ends))
        assert node.waiting or node.promised is None
        own = [child for child in node.children if not child.particles]
        assert node.completed == len(own) and node.firsts == pytest.approx(sum(map(own_walk, own)))
        images = [worth(end.id) for end in ends if end.terminal]
        assert node.best == max(images, default=float("-inf"))


def below(node):
    yield node
    for child in node.children:
        yield from below(child)


@pytest.mark.parametrize("options", EVERY[:3])
def test_a_walk_that_goes_on_passes_through_the_states_of_an_unbroken_one(options):
    whole, broken = make(200, seeds=3, share=1.0, policy=options.get("policy", Constant(1))), waiting(**options)
    carry_out(whole)
    carry_out(broken)
    for seed in broken.tree.root.children[:3]:
        ours, theirs = seed, whole.tree[seed.id]
        while ours.children:
            ours, theirs = ours.children[0], theirs.children[0]
            assert ours.id == theirs.id
    goes_on = [node for node in broken.tree if node.parent is not broken.tree.root and node is node.parent.children[0]]
    assert all(node.phi == 0 and node.id == jump_id(node.parent.id, node.k) for node in goes_on)


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("stop", [6, 15, 60])
def test_the_journal_rebuilds_the_identical_tree(options, stop):
    search = waiting(**options)
    lines = journalled(search, stop, lambda work, step: outcome_of(work, "broken" if step % 7 == 3 else None))
    again = waiting(**options)
    replay(again, json.loads(json.dumps(lines)))
    assert again.nodes() == search.nodes() and again.ledger == search.ledger and again.ask(3) == search.ask(3)


def test_walks_that_cannot_go_on_are_left_after_some_tries():
    search = waiting(400)
    carry_out_in_flight(search, 4, fails=lambda work: work.parent is not None)
    assert search.done and not search.finished and len(search.errors) > 3
    assert all(node.in_flight == 0 and node.waiting == (node.lost < 3) for node in search.tree if node.open or node.lost)


def test_with_scores_that_tell_the_truth_only_the_best_walk_is_finished_first():
    truth = {}

    def outcome(work):
        told = outcome_of(work)
        seed = work.edges[0].node if work.action == "seed" else next(s for s, ids in truth.items() if work.parent in ids)
        truth.setdefault(seed, set()).update(edge.node for edge in work.edges)
        value = worth(seed) - 0.1 * any(edge.phi for edge in work.edges)  # branches are a little worse
        scores = tuple((node, value) for node, _ in told.scores)
        return replace(told, scores=scores, reward=None if told.reward is None else value)

    never = Widening(1.0, 0.0)
    search = waiting(200, seeds=12, widening=never, calibration=lambda level, score: Prior(score, 1e-6, 1e-9), beta=0.01)
    while not search.finished:
        for work in search.ask(1):
            search.tell(outcome(work))
    seeds = [node.id for node in search.tree.root.children]
    assert len(seeds) >= 12 and search.finished[0].reward == max(map(worth, seeds))
    assert search.ledger.nfe < 12 * T / 2  # where whole trajectories would have cost 12 T


def test_without_a_calibration_nothing_waits():
    assert all(work.terminal for work in carry_out(waiting(calibration=None)))


@pytest.mark.parametrize("fields", [{"algorithm": "psp", "step_reward": "x0"}, {"algorithm": "mcts"}])
def test_waiting_needs_step_scores_and_a_tree(fields):
    with pytest.raises(ValueError, match="wait stops the walks of mcts by step scores"):
        SearchConfig(wait=True, **fields)


def test_waiting_needs_a_calibration():
    config = SearchConfig(algorithm="mcts", wait=True, step_reward="x0", calibration="none", reward="jpeg")
    with pytest.raises(ValueError, match="wait needs calibrated step scores, and there is no calibration of x0 for reward jpeg"):
        find_calibration(config, "a-model")
