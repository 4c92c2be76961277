import math

import pytest

from mcts_ray.tree import State, Tree, Widening, select

NEVER = Widening(0.0, 0.5)


def anything(node):
    return True


def star(rewards, open=True):
    """A root with one child per list of rewards; each child's first return is its own, the others come from below."""
    tree = Tree("root", 9)
    for index, own in enumerate(rewards):
        child = tree.dispatch(tree.root, State(f"c{index}", 5, open=open))
        tree.complete(child, [State(f"c{index}.0", 0, 5)], own[0])
        for draw, reward in enumerate(own[1:], start=1):
            tree.complete(tree.dispatch(child, State(f"c{index}.{draw}", 0, 5, 0.5)), [], reward)
    return tree


def upper(tree, child, beta):
    """V_c + beta s sqrt(2 ln (N_p + O_p) / (N_c + O_c)), written out."""
    parent = child.parent
    ratio = 2 * math.log(parent.visits + parent.in_flight) / (child.visits + child.in_flight)
    return child.value + beta * tree.spread.sd * math.sqrt(ratio)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 5.0])
def test_the_child_with_the_highest_upper_bound_is_chosen(beta):
    tree = star([[0.1, 0.5, 0.3], [0.4], [0.2, 0.9]])
    expected = max(tree.root.children, key=lambda child: upper(tree, child, beta))
    assert select(tree, beta, NEVER, anything) is expected


def test_work_in_flight_counts_as_visits_and_leaves_values_alone():
    tree = star([[0.5], [0.5], [0.3]])
    first = select(tree, 1.0, NEVER, anything)
    assert first.id == "c0"  # a tie goes to the smaller id
    value = first.value
    tree.dispatch(first, State("x", 2, 3, 0.5))
    assert first.value == value and (first.visits, first.in_flight) == (1, 1)
    assert select(tree, 1.0, NEVER, anything).id == "c1"


def test_lost_work_gives_the_choice_back():
    tree = star([[0.5], [0.5], [0.3]])
    child = tree.dispatch(tree["c0"], State("x", 2, 3, 0.5))
    tree.lose(child)
    assert (tree["c0"].visits, tree["c0"].in_flight, tree.root.in_flight) == (1, 0, 0)
    assert tree["c0"].draws == 2 and len(tree["c0"].children) == 1  # the lost noise is not drawn again
    assert select(tree, 1.0, NEVER, anything).id == "c0"


def test_a_virtual_child_competes_with_its_predicted_value_and_a_count_of_one():
    tree = star([[0.2], [0.6, 0.9, 0.9]])
    root, bonus = tree.root, math.sqrt(2 * math.log(4))
    assert root.fresh == pytest.approx(0.4)  # first returns only
    good = tree["c1"]
    even = (good.value - root.fresh) / (tree.spread.sd * bonus * (1 - 1 / math.sqrt(3)))  # beta at which both are equal
    assert select(tree, even * 1.01, Widening(), anything) is root
    assert select(tree, even * 0.99, Widening(), lambda node: True) is good


def test_widening_needs_its_permit():
    tree = star([[0.2], [0.6, 0.9, 0.9]])
    assert select(tree, 9.0, Widening(1.0, 0.25), anything) is not tree.root  # 2 < 4^(1/4) does not hold
    assert select(tree, 9.0, Widening(1.0, 0.75), anything) is tree.root  # 2 < 4^(3/4)


def test_reserved_children_count_for_the_permit():
    tree = star([[0.5, 0.5]])
    widening = Widening(2.5, 0.0)
    assert widening.permits(tree.root)
    tree.dispatch(tree.root, State("x", 5))
    assert widening.permits(tree.root)
    tree.dispatch(tree.root, State("y", 5))
    assert not widening.permits(tree.root)


def test_a_child_can_be_entered_only_when_it_has_come_back():
    tree = star([[0.1]])
    tree.dispatch(tree.root, State("x", 5, open=True))
    assert select(tree, 1.0, NEVER, anything).id == "c0"


def test_a_node_without_arms_is_widened_whatever_the_permit():
    assert select(star([[0.1], [0.3]], open=False), 1.0, NEVER, anything).id == "root"


def test_branches_that_cannot_be_paid_are_passed_over():
    tree = star([[0.9], [0.1]])
    assert select(tree, 0.0, NEVER, lambda node: node.id == "c1").id == "c1"
    assert select(tree, 0.0, NEVER, lambda node: False) is None


def test_selection_changes_nothing():
    tree = star([[0.1, 0.5, 0.3], [0.4], [0.2, 0.9]])
    before = [(n.id, n.visits, n.in_flight, n.value, n.certainty) for n in tree]
    select(tree, 1.0, Widening(), anything)
    assert [(n.id, n.visits, n.in_flight, n.value, n.certainty) for n in tree] == before
