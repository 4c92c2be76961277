import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant, Table
from mcts_ray.search import DTS, BestOfN, DTSStar, Setting
from mcts_ray.search.base import Cost
from mcts_ray.search.dts import boltzmann
from mcts_ray.search.ids import jump_id, seed_id
from mcts_ray.search.journal import asked, halted, replay, told
from mcts_ray.tree import Widening
from mcts_ray.tree.backup import log_mean_exp

from .fake import carry_out, carry_out_in_flight, journalled, outcome_of, worth

T = 10
BOTH = pytest.mark.parametrize("algorithm", [DTS, DTSStar])
EVERY = [
    dict(),
    {"branchings": 4},
    dict(policy=Constant(3), strength=5.0),
    dict(policy=Table((1, 1, 2, 2, 2, 3, 3, 4, 4, 4)), widening=Widening(3.0, 0.25)),
    dict(phi=lambda a, s: 0.0),
    dict(widening=Widening(2.0, 0.0)),
]


def make(algorithm, budget=133, levels=T, **options):
    """A tree that branches everywhere and chooses soon, or best-of-n."""
    if algorithm is not BestOfN:
        options = {"widening": Widening(1.0, 0.5), "branchings": 99, **options}
    options = {"phi": lambda a, s: 0.3, **options}
    return algorithm("s", Setting("a red circle", levels=levels), budget, **options)


@BOTH
@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("room", [1, 4, 50])
def test_budgets_hold_and_every_state_is_evaluated_once(algorithm, options, room):
    search = make(algorithm, **options)
    works = carry_out_in_flight(search, room)
    tree = search.tree
    assert search.ledger.nfe == sum(work.nfe for work in works) == sum(node.level > 0 for node in tree) <= 133
    assert search.ledger.decodes == len(works) == len(search.finished) == tree.root.returns
    for node in tree:
        assert node.in_flight == 0 and node.visits >= node.returns >= 1
        assert node.terminal or node.visits == sum(child.visits for child in node.children)


@BOTH
def test_the_budget_is_used_up_to_the_cheapest_branch(algorithm):
    """With noise at every level above 1, the cheapest new child costs one call: nothing may be left."""
    for budget in (10, 57, 133):
        search = make(algorithm, budget)
        carry_out(search, 1)
        assert search.ledger.nfe == budget


@BOTH
def test_decodes_are_reserved(algorithm):
    search = make(algorithm, 10_000, max_decodes=12)
    carry_out_in_flight(search, 5)
    assert search.done and search.ledger.decodes == 12


@BOTH
def test_every_state_of_a_rollout_can_be_branched_for_the_calls_below_it(algorithm):
    """Known trap: branches that repeat the calls above them. A child at level l costs l calls, its parent none."""
    search = make(algorithm, 600)
    kept, parents = set(), set()
    for work in carry_out(search, 1):
        assert work.nfe == work.edges[0].level and work.terminal and work.edges[0].phi == (0.3 if work.parent else 0.0)
        assert work.parent is None or work.parent in kept
        assert set(work.keep) == {edge.node for edge in work.edges if edge.level > 1}
        kept |= set(work.keep)
        parents |= {work.parent}
    assert len({search.tree[id].level for id in parents - {None}}) > 3


@BOTH
def test_noise_is_never_drawn_twice_and_the_ids_can_be_replayed(algorithm):
    search = make(algorithm, 400)
    works = carry_out_in_flight(search, 3)
    assert len({work.edges[0].node for work in works}) == len(works)
    for node in (search.tree.root, *search.tree):
        for index, child in enumerate(node.children):
            expected = seed_id(0, index) if node is search.tree.root else jump_id(node.id, child.k, index)
            assert child.id == expected


@BOTH
def test_nodes_are_no_wider_than_visits_permit(algorithm):
    search = make(algorithm, 800, widening=Widening(2.0, 0.5))
    carry_out_in_flight(search, 6)
    for node in (search.tree.root, *search.tree):
        if node.children:
            assert len(node.children) - 1 < 2.0 * node.visits**0.5


@BOTH
@pytest.mark.parametrize("strength", [0.5, 4.0, 1000.0])
def test_values_are_means_of_exponentials(algorithm, strength):
    """Known trap: logsumexp without - log n makes a node better by every child that it has."""
    search = make(algorithm, 500, strength=strength)
    carry_out_in_flight(search, 4)
    wide = 0
    for node in (search.tree.root, *search.tree):
        if node.terminal:
            assert node.value == worth(node.id)
            continue
        values = [child.value for child in node.children]
        assert node.value == pytest.approx(log_mean_exp(values, strength))
        assert min(values) - 1e-9 <= node.value <= max(values) + 1e-9
        wide += len(values) > 1
    assert wide > 5


def test_equal_children_do_not_raise_a_value():
    assert log_mean_exp([0.7] * 9, 3.0) == pytest.approx(0.7)
    assert log_mean_exp([0.0, 1.0], 2.0) == pytest.approx(math.log((1 + math.exp(2.0)) / 2) / 2)


def test_children_are_drawn_by_boltzmann():
    """20,000 draws of three children: each share within 4 standard errors, which chance breaks with probability 2e-4."""
    search = make(DTS, 60, phi=lambda a, s: 0.0, widening=Widening(9.0))
    carry_out(search, 1)
    children = search.tree.root.children[:3]
    p = np.exp([2.0 * child.value for child in children])
    p /= p.sum()
    rng = np.random.default_rng(1)
    ids = [boltzmann(children, 2.0, rng).id for _ in range(20_000)]
    shares = np.array([ids.count(child.id) / 20_000 for child in children])
    assert np.all(np.abs(shares - p) < 4 * np.sqrt(p * (1 - p) / 20_000))


def test_what_is_in_flight_counts_as_visits_and_leaves_values_alone():
    """WU-UCT: with c large, DTS* turns away from a child for what is still out below it."""
    search = make(DTSStar, 2000, explore=50.0, widening=Widening(2.0, 0.0))
    first, second = (search.ask(1)[0] for _ in range(2))
    search.tell(outcome_of(first))
    search.tell(outcome_of(second))
    values = [child.value for child in search.tree.root.children]
    below = [search.ask(1)[0] for _ in range(4)]
    on = [search.tree[work.edges[0].node].path()[-2].id for work in below]
    assert {on.count(seed.id) for seed in search.tree.root.children} == {2}
    assert [child.value for child in search.tree.root.children] == values


@BOTH
@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("stop", [5, 13, 40])
def test_the_journal_rebuilds_the_identical_tree(algorithm, options, stop):
    def look():
        assert search.done in (True, False) and search.ask(0) == []  # looking changes nothing

    search = make(algorithm, **options)
    lines = journalled(search, stop, lambda work, step: outcome_of(work, "broken" if step == 3 else None), look)
    again = make(algorithm, **options)
    replay(again, json.loads(json.dumps(lines)))
    assert again.nodes() == search.nodes() and again.ledger == search.ledger and again.best(3) == search.best(3)
    assert again.ask(3) == search.ask(3)


@BOTH
def test_the_same_schedule_gives_the_same_tree_and_another_seed_another(algorithm):
    one, two, three = make(algorithm), make(algorithm), make(algorithm, seed=1)
    assert carry_out_in_flight(one, 5) == carry_out_in_flight(two, 5)
    assert one.nodes() == two.nodes() and one.finished == two.finished
    assert {c.node for c in one.finished}.isdisjoint(c.node for c in (carry_out(three), three.finished)[1])


@BOTH
def test_lost_work_leaves_no_trace_but_its_cost(algorithm):
    def fails(work):
        return int(work.id.split("/")[1]) % 4 == 2

    search = make(algorithm, 300)
    works = carry_out_in_flight(search, 4, fails)
    failed = {work.edges[0].node for work in works if fails(work)}
    assert len(search.errors) == len(failed) > 2 and not failed & {node.id for node in search.tree}
    assert search.ledger.nfe == sum(work.nfe for work in works) <= 300
    everything = make(algorithm, 10_000)
    assert len(carry_out_in_flight(everything, 4, lambda work: True)) < 20 and everything.done


@BOTH
def test_halt_takes_in_flight_work_out_of_the_tree(algorithm):
    search = make(algorithm)
    works = search.ask(1)
    search.tell(outcome_of(works[0]))
    lines = [asked(works[0]), told(outcome_of(works[0]), 0.0), *(asked(work) for work in search.ask(2))]
    search.halt([Cost(nfe=4)])
    lines.append(halted([Cost(nfe=4)], 0.0))
    assert search.done and search.tree.root.in_flight == 0 and len(search.finished) == 1
    again = make(algorithm)
    replay(again, json.loads(json.dumps(lines)))
    assert again.nodes() == search.nodes() and again.ledger == search.ledger


def test_defaults_of_a_configuration():
    resolved = SearchConfig(algorithm="dts-star").resolved(True, (64, 64), "scenes")
    assert (resolved.eta, resolved.explore, resolved.widen_c, resolved.widen_a) == (1.0, 1.0, 2.0, 0.8)
    tree = SearchConfig(algorithm="mcts").resolved(True, (64, 64), "scenes")
    assert (tree.eta, tree.explore, tree.widen_c, tree.widen_a) == (0.0, 0.3, 2.0, 0.5)
    search = DTSStar.from_config("s", Setting("", levels=30), resolved, lambda a, s: 0.3, Constant(1))
    assert (search.strength, search.explore, search.widening) == (1.0, 1.0, Widening(2.0, 0.8))
    assert (resolved.branchings, tree.branchings) == (4, 3)
    with pytest.raises(ValueError, match="dts needs noise"):
        SearchConfig(algorithm="dts", eta=0)


def test_dts_star_finds_more_than_best_of_n_where_good_states_have_good_children():
    """A Gaussian world: a seed is worth z, an edge keeps cos(phi) of it and draws sin(phi) anew, so every image is N(0, 1) in
    law. One-sided z-test over 40 paired seeds at 3.1 standard errors (chance: 1e-3)."""

    def best(search):
        value, reward = {}, {}
        while not search.done:
            for work in search.ask(1):
                v = value.get(work.parent)
                for edge in work.edges:
                    z = np.random.default_rng(int(edge.node, 16)).standard_normal()
                    v = z if v is None else math.cos(edge.phi) * v + math.sin(edge.phi) * z
                    value[edge.node] = v
                reward[edge.node] = v
                search.tell(replace(outcome_of(work), reward=v))
        return search.best(1)[0].reward

    gains = [best(make(DTSStar, 300, seed=s)) - best(make(BestOfN, 300, seed=s)) for s in range(40)]
    assert np.mean(gains) > 3.1 * np.std(gains, ddof=1) / math.sqrt(len(gains))


@BOTH
def test_paths_branch_where_the_paper_says(algorithm):
    """Table 2: of 50 levels at 40, 30, 20 and 10, and at the root; elsewhere a state has one child."""
    search = make(algorithm, 20 * 50, levels=50, branchings=4)
    works = carry_out(search, 1)
    wide = {node.level for node in search.tree if len(node.children) > 1}
    assert {node.level for node in search.tree if node.open} == {40, 30, 20, 10} and wide <= {40, 30, 20, 10} and len(wide) > 1
    assert len(search.tree.root.children) > 1 and all(len(work.keep) <= 4 for work in works)


@BOTH
def test_the_papers_constants_are_best_of_n_until_there_are_32_seeds(algorithm):
    search = algorithm("s", Setting("", levels=10), 600, phi=lambda a, s: 0.3)
    works = carry_out(search, 1)
    first = next(index for index, work in enumerate(works) if work.parent)
    assert 31 < first < 34 and len(works) > first + 10
