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
    assert pruned(tree) == {"1"} and pruner.counts["pruned"] == pruner.counts["statistical"] == 1 and not pruner.counts["revived"]
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
    assert {name: count for name, count in pruner.counts.items() if count} == {"pruned": 1, "stages": 1, "revived": 1}


def test_without_revival_what_is_pruned_stays_so():
    tree, pruner = make("stages", budget=100, halvings=(0.5,), revive=False)
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    give(pruner, tree, 0, 2, -9.0, spent=51)
    assert pruned(tree) == {"1"} and pruner.counts["revived"] == 0


def test_without_the_rule_memory_no_state_is_let_go():
    tree, pruner = make("stages", budget=100, cold=0.01, halvings=(0.5,))
    grow(pruner, tree, [[0.5], [0.4, 0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    give(pruner, tree, 0, 2, 0.5, spent=99)
    assert pruned(tree) == {"1"} and not pruner.released and not pruner.lost(tree["1.1"])


def test_states_of_pruned_subtrees_are_let_go_and_they_can_still_be_revived():
    tree, pruner = make("stages", "memory", budget=100, cold=1.0, halvings=(0.5,))
    grow(pruner, tree, [[0.5], [0.4, 0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=50)
    assert pruned(tree) == {"1"} and set(pruner.released) == {"1", "1.1"}
    assert [node.id for node in pruner.lost(tree["1.1"])] == ["1", "1.1"] and pruner.lost(tree["0.1"]) == []
    give(pruner, tree, 0, 2, -9.0, spent=62)
    assert not pruned(tree) and pruner.counts["revived"] == 1 and pruner.counts["evicted"] == 2
    pruner.released.clear()
    path = pruner.lost(tree["1"])
    pruner.begin(path)
    assert pruner.waits(tree["1"]) and not pruner.waits(tree["1.1"])
    pruner.end(path, 63)
    assert not pruner.waits(tree["1"]) and pruner.lost(tree["1"]) == []
    assert pruner.lost(tree["1.1"]) == [tree["1.1"]] and pruner.counts["remade"] == 1


def test_states_that_nothing_starts_from_are_let_go_after_a_share_of_the_budget():
    tree, pruner = make("memory", budget=100, cold=0.2)
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    give(pruner, tree, 0, 1, 0.5, spent=25)
    assert not pruner.released
    out = tree.dispatch(tree["1"], State("out", 5, 4, 0.5, True))
    give(pruner, tree, 2, 0, 0.5, spent=31)
    assert not pruner.released  # something is out below it, and will start from its state
    tree.lose(out)
    give(pruner, tree, 3, 0, 0.5, spent=32)
    assert pruner.released == ["1"] and not pruned(tree) and tree["1"] in tree.root.arms
    give(pruner, tree, 4, 0, 0.5, spent=46)
    assert pruner.released[0] == "1" and set(pruner.released[1:]) == {"0", "0.1"}


def test_a_state_that_waits_to_be_let_go_stays_where_it_is_needed_again():
    tree, pruner = make("memory", budget=100, cold=0.2)
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    give(pruner, tree, 2, 0, 0.5, spent=31)
    assert set(pruner.released) == {"0", "1"}
    pruner.begin(pruner.lost(tree["1"]))
    assert pruner.released == ["0"]
    pruner.end([tree["1"]], None)  # it could not be made
    assert pruner.lost(tree["1"]) == [tree["1"]] and pruner.counts["remade"] == 0


def test_states_below_fused_noise_and_spared_ones_are_never_let_go():
    tree, pruner = make("memory", budget=100, cold=0.1)
    pruner._spared = lambda node: node.id == "1"
    grow(pruner, tree, [[0.5], [0.4]], spent=10)
    fused = tree.dispatch(tree.root, State("f", 9, open=True), ("0", "1"))
    pruner.update(tree.complete(fused, [State("f.x", 5, 4, open=True), State("f.y", 0, 5)], 0.0), 11)
    give(pruner, tree, 2, 0, 0.5, spent=50)
    assert pruner.released == ["0"]


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
