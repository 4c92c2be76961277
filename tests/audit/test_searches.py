from itertools import product

import pytest

from mcts_ray.audit.searches import (
    JumpPaths,
    Siblings,
    Walks,
    children_of,
    completion,
    trunk,
)
from mcts_ray.search import Setting
from mcts_ray.search.branching import Branching
from tests.search.fake import carry_out, worth

SETTING = Setting("a red circle", levels=6)


def siblings(completions, budget=None):
    shape = {"parents": (5, 3), "children": 3, "completions": completions}
    cost = Siblings.nfe(6, **shape)
    return Siblings("s", SETTING, budget or cost, phi=lambda a, s: 0.7, branching=Branching(6, 0.5, 1), **shape), cost


def test_walks_are_scored_where_they_are_asked_to_be():
    search = Walks("s", SETTING, 18, scored=(6, 2))
    works = carry_out(search)
    assert len(works) == 3 and [edge.level for edge in works[0].edges if edge.node in works[0].scored] == [6, 2]
    assert search.scores == {node: worth(node) for work in works for node in work.scored}


def test_children_share_their_parent_and_completions_their_child():
    search, cost = siblings(completions=2)
    works = carry_out(search)
    assert search.ledger.nfe == cost == 4 + 3 * (1 + 2 * 3) + 3 * (1 + 2 * 1)
    spots = {edge.level: edge.node for edge in trunk(0, 6, 3)}
    nodes = {node["id"]: node for node in search.nodes()}
    for level, parent in ((5, spots[5]), (3, spots[3])):
        for child in children_of(parent, 3):
            assert (nodes[child]["parent"], nodes[child]["level"], nodes[child]["score"]) == (parent, level - 1, worth(child))
            ends = [completion(child, level - 1, index)[-1] for index in range(2)]
            assert [nodes[end]["level"] for end in ends] == [0, 0] and nodes[child]["visits"] == 2
            assert [nodes[end]["value"] for end in ends] == [worth(end) for end in ends]
    angles = {edge.phi for work in works[1:7] for edge in work.edges}
    assert angles == {Branching(6, 0.5, 1).angle(5), Branching(6, 0.5, 1).angle(3)}
    assert {edge.phi for work in works[7:] for edge in work.edges} == {0.7} and {edge.phi for edge in works[0].edges} == {0}


def test_a_second_pass_scores_the_same_children_and_completes_none():
    search, cost = siblings(completions=0)
    carry_out(search)
    assert search.ledger.nfe == cost == 4 + 6 and not search.finished
    assert {c for a in (5, 3) for c in children_of({e.level: e.node for e in trunk(0, 6, 3)}[a], 3)} <= {n["id"] for n in search.nodes()}


@pytest.mark.parametrize("T, jumps", [(5, (1, 2, 4, 8)), (6, (1, 3))])
def test_every_jump_path_is_walked_once(T, jumps):
    setting = Setting("", levels=T)
    search = JumpPaths("s", setting, JumpPaths.nfe(T, jumps, 2), seeds=2, jumps=jumps)
    works = carry_out(search)
    assert search.done and search.ledger.nfe == search.budget and not search.errors
    parent = {node["id"]: node for node in search.nodes()}
    ways = []
    for candidate in search.finished:
        node, way = parent[candidate.node], []
        while node["parent"]:
            way.append(parent[node["parent"]]["level"] - node["level"])
            node = parent[node["parent"]]
        ways.append((node["id"], tuple(reversed(way))))
    expected = {way for n in range(1, T + 1) for way in product(jumps, repeat=n) if sum(way) == T}
    assert len(ways) == len(set(ways)) == 2 * len(expected) and {way for _, way in ways} == expected
    assert JumpPaths.ways(T, jumps)[0] == len(expected)
    assert all(edge.phi == 0 for work in works for edge in work.edges)
