import pytest

from mcts_ray.gain import Constant, Table
from mcts_ray.search import BestOfN, Setting
from mcts_ray.search.ids import seed_id

from .fake import carry_out

SETTING = Setting("a red circle", levels=7)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_n_is_what_the_budget_pays_for(k):
    search = BestOfN("s", SETTING, 50, policy=Constant(k))
    works = carry_out(search)
    assert search.trajectory_nfe == -(-7 // k)
    assert len(works) == 50 // search.trajectory_nfe
    assert search.ledger.nfe == len(works) * search.trajectory_nfe <= 50
    assert all(work.nfe == search.trajectory_nfe and work.terminal and work.parent is None for work in works)


def test_seeds_are_shared_by_prompts_and_step_sizes():
    one = BestOfN("one", SETTING, 50, policy=Constant(1), seed=5).ask(4)
    two = BestOfN("two", Setting("a blue square", levels=7), 50, policy=Constant(2), seed=5).ask(4)
    assert [w.edges[0].node for w in one] == [w.edges[0].node for w in two] == [seed_id(5, i) for i in range(4)]
    assert one[0].edges[-1].node != two[0].edges[-1].node


def test_phi_is_put_on_every_edge_but_the_seed():
    search = BestOfN("s", SETTING, 50, policy=Constant(3), phi=lambda a, s: a + s / 10)
    assert [edge.phi for edge in search.ask(1)[0].edges] == [0.0, 7.4, 4.1, 1.0]


def test_nodes_hold_every_state_parents_first():
    search = BestOfN("s", SETTING, 14, policy=Constant(3))
    search.ask(1)
    nodes = search.nodes()
    assert [node["action"] for node in nodes] == ["seed", "jump 3", "jump 3", "jump 1"]
    assert [node["level"] for node in nodes] == [7, 4, 1, 0]
    assert [node["parent"] for node in nodes] == [None, *(node["id"] for node in nodes[:-1])]
    assert all(node["visits"] == 0 and node["value"] is None for node in nodes)


def test_nodes_carry_the_reward_of_their_trajectory():
    search = BestOfN("s", SETTING, 21)
    carry_out(search, fails=lambda work: work.id == "s/1")
    finals = [node for node in search.nodes() if node["level"] == 0]
    assert [node["visits"] for node in finals] == [1, 0, 1]
    assert [node["value"] for node in finals if node["visits"]] == [c.reward for c in search.finished]


def test_any_jump_policy_makes_the_trajectory():
    search = BestOfN("s", SETTING, 12, policy=Table((1, 2, 3, 1, 1, 2, 3)))
    assert search.path == (7, 4, 3, 0) and search.trajectory_nfe == 3
    assert [w.nfe for w in carry_out(search)] == [3] * 4
