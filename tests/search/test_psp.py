import pytest

from mcts_ray.gain import Constant
from mcts_ray.search import PSP, Setting
from mcts_ray.search.ids import seed_id

from .fake import carry_out, carry_out_in_flight, worth


def make(budget, levels=30, **options):
    return PSP("s", Setting("a red circle", levels=levels), budget, **options)


def test_two_n_then_n_then_half_n():
    """2N = 8 seeds: 8 calls each, then 4 of them 7 more, then 2 of them the last 15."""
    search = make(8 * 8 + 4 * 7 + 2 * 15)
    works = carry_out(search)
    stages = [[w for w in works if w.id.startswith(f"s/{stage}.")] for stage in range(3)]
    assert [len(stage) for stage in stages] == [8, 4, 2]
    assert [{w.nfe for w in stage} for stage in stages] == [{8}, {7}, {15}]
    assert search.ledger.nfe == search.budget and search.ledger.decodes == 8 + 4 + 2 and len(search.finished) == 2


def test_stages_are_ranked_by_the_score_of_their_last_call():
    search = make(400)
    works = carry_out_in_flight(search, 3)
    before = [w for w in works if w.id.startswith("s/0.")]
    assert {w.scored for w in before} == {(w.edges[7].node,) for w in before} == {w.keep for w in before}
    after = [w.parent for w in works if w.id.startswith("s/1.")]
    ranked = sorted((w.keep[0] for w in before), key=worth, reverse=True)
    assert set(after) == set(ranked[: -(-len(before) // 2)])
    assert all(w.edges[-1].level == 0 and w.terminal for w in works if w.id.startswith("s/2."))


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("budget", [30, 77, 240])
def test_the_budget_is_never_exceeded_and_one_more_seed_would(levels, k, budget):
    search = make(budget, levels, policy=Constant(k))
    carry_out_in_flight(search, 7)
    assert 0 < search.ledger.nfe <= budget and len(search.finished) >= 1
    more = make(10 * budget, levels, policy=Constant(k))
    count = len(search.trajectories)
    sizes = [-(-(count + 1) // 2**stage) for stage in range(len(more.stages))]
    assert sum(size * (stop - start) for size, (start, stop) in zip(sizes, more.stages)) > budget


def test_decodes_limit_the_number_of_seeds():
    search = make(10_000, max_decodes=10)
    carry_out(search)
    assert len(search.trajectories) == 5 and search.ledger.decodes == 5 + 3 + 2


def test_seeds_are_those_of_the_other_algorithms():
    assert make(240, seed=5).ask(1)[0].edges[0].node == seed_id(5, 0)


def test_failed_seeds_are_out():
    search = make(240)
    works = carry_out_in_flight(search, 4, fails=lambda work: work.id in ("s/0.1", "s/1.0", "s/1.2"))
    assert len(search.errors) == sum(w.id in ("s/0.1", "s/1.0", "s/1.2") for w in works)
    assert not any(w.id in ("s/1.1", "s/2.1") for w in works)
    everything = make(240)
    carry_out(everything, fails=lambda work: True)
    assert everything.done and everything.best(1) == []


def test_nodes_are_the_states_that_were_reached():
    search = make(240)
    carry_out(search)
    nodes = search.nodes()
    assert sum(node["level"] > 0 for node in nodes) == search.ledger.nfe
    assert {node["value"] for node in nodes if node["level"] == 0} == {c.reward for c in search.finished}
    known = {None}
    for node in nodes:
        assert node["parent"] in known
        known.add(node["id"])
