"""Where nodes lie: properties of every tree, and one tree by hand."""

import pytest

from mcts_ray.report.tree_layout import best_leaves, forest, rows
from tests.report.trees import Grower, chains, large_tree, small_tree

TREES = {"small": small_tree(), "large": large_tree(2000), "chains": chains(4, 1000), "empty": Grower()}


@pytest.fixture(params=TREES)
def tree(request):
    return forest(TREES[request.param].nodes)


def test_a_row_for_every_leaf(tree):
    row_of = rows(tree, range(len(tree.nodes)))
    assert sorted(row_of[leaf] for leaf in tree.leaves) == list(range(len(tree.leaves)))
    assert set(row_of) == set(range(len(tree.nodes)))


def test_parents_lie_on_the_row_of_their_best_child_and_above_the_others(tree):
    row_of = rows(tree, range(len(tree.nodes)))
    children = {}
    for node, parent in enumerate(tree.parents):
        children.setdefault(parent, []).append(node)
    for parent, siblings in children.items():
        siblings.sort(key=row_of.__getitem__)
        keys = [tree.keys[node] for node in siblings]
        assert keys == sorted(keys, reverse=True)
        assert parent < 0 or row_of[siblings[0]] == row_of[parent]


def test_rows_between_a_node_and_its_child_hold_only_its_descendants(tree):
    row_of = rows(tree, range(len(tree.nodes)))
    at = {row_of[leaf]: leaf for leaf in tree.leaves}
    for node, parent in list(enumerate(tree.parents))[-300:]:
        if parent >= 0:
            assert all(parent in tree.path(at[row]) for row in range(row_of[parent], row_of[node] + 1))


def test_the_small_tree():
    tree = forest(small_tree().nodes)
    row_of = rows(tree, range(len(tree.nodes)))
    leaves = sorted(tree.leaves, key=row_of.__getitem__)
    assert [tree.nodes[leaf]["value"] for leaf in leaves] == [0.9, 0.5, 0.4, None, 0.3]
    seeds = [i for i, parent in enumerate(tree.parents) if parent < 0]
    assert [row_of[seed] for seed in seeds] == [4, 0]


def test_the_best_leaves_bring_their_paths_and_the_particles_of_fused_nodes():
    tree = forest(small_tree().nodes)
    shown = best_leaves(tree, 1)
    (fused,) = tree.particles
    assert fused in shown and set(tree.particles[fused]) <= shown
    assert {tree.nodes[node]["value"] for node in shown & set(tree.leaves)} == {0.9}
    assert all(tree.parents[node] in shown for node in shown if tree.parents[node] >= 0)
    assert sorted(rows(tree, shown).values()) == [0] * 6 + [1, 2]


def test_more_leaves_on_request():
    tree = forest(large_tree(500).nodes)
    worst = min(tree.leaves, key=tree.keys.__getitem__)
    assert worst not in best_leaves(tree, 10) and worst in best_leaves(tree, 10, also=[worst])


def test_unfinished_leaves_come_last_whatever_their_value():
    grower = Grower()
    grower.node(None, 4, "seed", 9.0)
    grower.rollout(grower.node(None, 4, "seed", -1.0), 4, -1.0)
    tree = forest(grower.nodes)
    assert rows(tree, range(3)) == {1: 0, 2: 0, 0: 1}


def test_particles_that_are_not_in_the_tree_are_left_out():
    grower = small_tree()
    next(node for node in grower.nodes if node["action"] == "fuse")["particles"].append("gone")
    (particles,) = forest(grower.nodes).particles.values()
    assert len(particles) == 2
