import pytest

from mcts_ray.tree import Pruner, Pruning, State, Tree
from mcts_ray.tree.backup import mean


def grow(pruner, tree, rewards, spent=0):
    """Seeds 0, 1, ... each with these rewards: the first by the roll-out that made it, the others by its children."""
    for seed, values in enumerate(rewards):
        for index, reward in enumerate(values):
            give(pruner, tree, seed, index, reward, spent)


def give(pruner, tree, seed, index, reward, spent=0):
    if index == 0:
        child = tree.dispatch(tree.root, State(f"{seed}", 9, open=True))
    else:
        child = tree.dispatch(tree[f"{seed}"], State(f"{seed}.{index}", 5, 4, 0.5, True))
    leaf = tree.complete(child, [State(f"{child.id}.x", 0, child.level)], reward)
    pruner.update(leaf, spent)


def make(*rules, budget=100, **options):
    tree = Tree("root", 9)
    return tree, Pruner(tree, Pruning(rules, **options), budget)


def pruned(tree):
    return {row["id"] for row in tree.rows() if row.get("pruned")}


def test_a_child_is_dropped_where_its_upper_bound_is_below_a_siblings_lower_bound():
    tree, pruner = make("statistical", z=2.0)
    grow(pruner, tree, [[1.0, 1.1, 0.9, 1.0], [0.0, 0.1, -0.1, 0.0], [0.9, 1.0, 0.8, 0.9]])
    for index in range(4, 40):
        for seed, reward in enumerate((1.0, 0.0, 0.9)):
            if not tree[f"{seed}"].pruned:
                give(pruner, tree, seed, index, reward)
    assert pruned(tree) == {"1"} and pruner.counts == {"pruned": 1, "revived": 0, "evicted": 0}
    assert tree["1"] not in tree.root.arms and tree["1"] in tree.root.children
    child, best = tree["1"], tree["0"]
    assert mean(child) + 2 * child.sd(tree.spread.sd) < mean(best) - 2 * best.sd(tree.spread.sd)


def test_few_returns_are_never_enough():
    tree, pruner = make("statistical", z=0.0, least=4)
    grow(pruner, tree, [[1.0] * 4, [0.0] * 3])
    assert not pruned(tree)
    give(pruner, tree, 1, 3, 0.0)
    assert pruned(tree) == {"1"}


def test_statistics_of_pruned_nodes_stay():
    tree, pruner = make("statistical", z=0.0)
    grow(pruner, tree, [[1.0] * 4, [0.0] * 4])
    assert tree.root.returns == 8 and tree.root.value == 0.5 and len(tree.root.children) == 2


def test_stages_halve_the_seeds_at_shares_of_the_budget():
    tree, pruner = make("stages", budget=100, cold=1.0)
    grow(pruner, tree, [[0.1], [0.5], [0.3], [0.4], [0.2]], spent=49)
    assert not pruned(tree)
    give(pruner, tree, 1, 1, 0.5, spent=50)
    assert pruned(tree) == {"0", "4"}
    give(pruner, tree, 1, 2, 0.5, spent=74)
    assert pruned(tree) == {"0", "4"}
    give(pruner, tree, 1, 3, 0.5, spent=90)
    assert pruned(tree) == {"0", "4", "2"} and len(tree.root.arms) == 2


def test_a_pruned_node_is_revived_when_all_siblings_fall_below_it():
    tree, pruner = make("stages", budget=100, cold=1.0)
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    assert pruned(tree) == {"1"}
    give(pruner, tree, 0, 2, 0.3, spent=51)  # mean .43: not below
    assert pruned(tree) == {"1"}
    give(pruner, tree, 0, 3, 0.0, spent=52)
    assert not pruned(tree) and tree["1"] in tree.root.arms
    assert pruner.counts == {"pruned": 1, "revived": 1, "evicted": 0}


def test_what_stays_pruned_is_given_up_and_its_states_are_released():
    tree, pruner = make("stages", budget=100, cold=0.1, halvings=(0.5,))
    grow(pruner, tree, [[0.5], [0.4, 0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    assert pruned(tree) == {"1"} and not pruner.released
    out = tree.dispatch(tree["1"], State("out", 5, 4, 0.5, True))
    give(pruner, tree, 0, 2, 0.5, spent=60)
    assert not pruner.released  # something is out below it, and will start from its state
    tree.lose(out)
    give(pruner, tree, 0, 3, 0.5, spent=61)
    assert set(pruner.released) == {"1", "1.1"} and pruner.counts["evicted"] == 2
    give(pruner, tree, 0, 4, -9.0, spent=62)
    assert pruned(tree) == {"1"} and pruner.counts["revived"] == 0 and tree.root.returns == 7


def test_particles_that_were_fused_are_not_revived():
    tree, pruner = make("stages", budget=100, cold=1.0, halvings=(0.5,))
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    fused = tree.dispatch(tree.root, State("f", 9, open=True), ("0", "1"))
    pruner.update(tree.complete(fused, [State("f.x", 0, 9)], 0.0), 51)
    give(pruner, tree, 0, 2, -9.0, spent=52)
    assert pruned(tree) == {"1"}


@pytest.mark.parametrize("predicted, hopeless", [(0.1, False), (0.0, True), (-1.0, True), (None, False)])
def test_children_without_a_gain_to_expect_are_hopeless(predicted, hopeless):
    assert Pruning(("gain",), lambda level, k: predicted).hopeless(5, 2) is hopeless
    assert Pruning(("stages",), lambda level, k: predicted).hopeless(5, 2) is False
