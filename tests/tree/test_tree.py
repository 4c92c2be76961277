import pytest

from mcts_ray.tree import Prior, State, Tree


def test_a_simulation_that_comes_back_joins_with_its_whole_path():
    tree = Tree("root", 6)
    child = tree.dispatch(tree.root, State("a", 6))
    assert (child.visits, child.in_flight, tree.root.in_flight, tree.root.arms) == (0, 1, 1, [])
    leaf = tree.complete(child, [State("b", 4, 2, 0.0, True), State("c", 0, 4)], 0.5)
    assert leaf is tree["c"] and leaf.terminal and [node.id for node in leaf.path()] == ["c", "b", "a", "root"]
    assert [node.id for node in tree] == ["a", "b", "c"] and len(tree) == 3  # parents first
    assert tree.root.arms == [child] and child.arms == [tree["b"]] and tree["b"].arms == []  # only what leads to an open node
    assert [node.action for node in tree] == ["seed", "jump 2", "jump 4"]


def test_draws_count_the_rollout_and_lost_children():
    tree = Tree("root", 6)
    child = tree.dispatch(tree.root, State("a", 6, 0, 0.0, True))
    tree.complete(child, [State("b", 0, 6)], 0.5)
    assert tree.root.draws == 1 and child.draws == 1
    tree.lose(tree.dispatch(child, State("x", 2, 4, 0.5)))
    assert child.draws == 2 and len(child.children) == 1 and "x" not in {node.id for node in tree}


def test_a_node_that_only_loses_children_is_closed():
    tree = Tree("root", 6)
    for index in range(3):
        assert tree.root.open
        tree.lose(tree.dispatch(tree.root, State(f"x{index}", 6)))
    assert not tree.root.open


def test_what_is_taken_back_was_never_there_and_closes_nothing():
    tree = Tree("root", 6)
    for index in range(9):
        child = tree.dispatch(tree.root, State(f"x{index}", 6), ("a", "b"))
        assert child.particles == ("a", "b") and child.action == "fuse"
        tree.take_back(child)
    root = tree.root
    assert root.open and (root.lost, root.draws, root.in_flight, root.children, len(tree)) == (0, 0, 0, [], 0)


def test_no_node_twice():
    tree = Tree("root", 6)
    tree.dispatch(tree.root, State("a", 6))
    with pytest.raises(AssertionError, match="twice"):
        tree.dispatch(tree.root, State("a", 6))


class Learning:
    """A calibration that is due at the third observation and says the number of observations so far."""

    def __init__(self):
        self.seen = []

    def __call__(self, level, score):
        return Prior(float(len(self.seen)), 1.0, 1.0)

    def observe(self, level, score, reward):
        self.seen.append((level, score, reward))

    def due(self):
        return len(self.seen) == 3


def test_a_calibration_that_learns_is_shown_rewards_and_judges_all_states_again_when_due():
    learning = Learning()
    tree = Tree("root", 6, calibration=learning)
    for index, reward in enumerate((0.5, 0.7, 0.9)):
        child = tree.dispatch(tree.root, State(f"a{index}", 6, open=True))
        tree.complete(child, [State(f"b{index}", 0, 6)], reward, [(f"a{index}", 0.1 * index)])
        if index < 2:
            assert tree[f"a{index}"].prior.mean == index  # judged before its own reward was seen
    assert learning.seen == [(6, 0.0, 0.5), (6, 0.1, 0.7), (6, 0.2, 0.9)]
    assert [tree[f"a{index}"].prior.mean for index in range(3)] == [3.0] * 3
    assert [tree[f"a{index}"].value for index in range(3)] == pytest.approx([(3 + r) / 2 for r in (0.5, 0.7, 0.9)])
    assert tree.root.value == pytest.approx(0.7) and tree["b0"].value == 0.5
