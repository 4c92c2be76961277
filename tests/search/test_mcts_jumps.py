"""Trees whose children differ in k, chosen from made-up predictions: budgets, ids, groups of the soft backup, the calls still to pay."""

from collections import Counter
from dataclasses import replace

import pytest

from mcts_ray.gain.choose import Chooser, Gains, Jump
from mcts_ray.gain.policy import Constant, Table
from mcts_ray.search import MCTS, Setting
from mcts_ray.search.branching import Branching
from mcts_ray.search.journal import asked, replay, told
from mcts_ray.tree import Fusing, Prior, Pruning, Soft
from mcts_ray.tree.backup import log_mean_exp

from .fake import outcome_of, worth

T = 12
POLICY = Table((1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4))


def predicted(node: str) -> Gains:
    """Gains that hang on the node alone."""
    return Gains(node, 1, tuple(Jump(k, 0.2 * worth(f"{int(node, 16) * k % 16**32:032x}"), 0.01 * k) for k in (1, 2, 4, 8)))


def outcome(work):
    """As in `fake`, with predictions for all kept nodes but every fifth."""
    gains = tuple(predicted(node) for node in work.keep if int(node, 16) % 5)
    return replace(outcome_of(work), gains=gains)


def make(choice="greedy", price=0.0, budget=150, pruning=None, **options):
    chooser = Chooser(POLICY, choice, price, top=3)
    if pruning:
        pruning = Pruning(("gain",), node_gain=lambda node, k: chooser.margin(node.id, node.level, k))
    rest = {"seeds": 3, "beta": 0.5, "policy": POLICY, "chooser": chooser, "pruning": pruning}
    return MCTS("s", Setting("", levels=T), budget, Branching(T, 0.5, 3), **rest | options)


def carry_out(search, room):
    works, out, records = [], [], []
    while not search.done:
        new = search.ask(room - len(out))
        records += [asked(work) for work in new]
        out, works = out + new, works + new
        found = outcome(out.pop(0))
        records.append(told(found, 0.0))
        search.tell(found)
    return works, records


@pytest.mark.parametrize("choice", ["greedy", "top-m", "sample"])
@pytest.mark.parametrize("room", [1, 6])
@pytest.mark.parametrize("options", [{}, {"pruning": True}, {"fusing": Fusing("signed", most=2)}, {"rule": Soft(4.0)}, {"stride": 1}])
def test_budgets_hold_ids_differ_and_the_journal_rebuilds_the_tree(choice, room, options):
    search = make(choice, 1e-3, share=1.0, **options)
    works, records = carry_out(search, room)
    assert search.ledger.nfe == sum(work.nfe for work in works) <= 150
    assert len({node["id"] for node in search.nodes()}) == len(search.nodes())
    again = make(choice, 1e-3, share=1.0, **options)
    replay(again, records)
    assert again.nodes() == search.nodes()
    for work in works:
        if work.action == "jump":
            assert work.version == (1 if int(work.parent, 16) % 5 else None)
    silent = sum(work.version is None and work.parent is not None for work in works)
    assert sum(search.chooser.silent.values()) == silent and bool(search.notes) == bool(silent)


def test_children_of_one_node_have_several_jumps_and_a_group_for_each():
    search = make("top-m", rule=Soft(4.0), budget=300)
    carry_out(search, 1)
    several = [node for node in search.tree if len({child.k for child in node.children if child.returns}) > 1]
    assert several
    for node in several:
        groups = {}
        for child in node.children:
            if child.returns:
                groups.setdefault((child.k, child.phi), []).append(child.value)
        assert node.value == pytest.approx(max(log_mean_exp(group, 4.0) for group in groups.values()))


def test_the_price_makes_jumps_larger():
    """The same predictions, calls for nothing and calls for much: the mean jump grows."""
    means = []
    for price in (0.0, 1.0):
        works, _ = carry_out(make(price=price, budget=300), 1)
        jumps = [int(node["action"][5:]) for work in works if work.version for node in [action(work)]]
        means.append(sum(jumps) / len(jumps))
    assert means[1] > means[0]


def action(work):
    """How far the first edge of a unit jumps, told by its node's place: parent's level is not in the unit, so by the ids."""
    from mcts_ray.search.ids import jump_id

    for k in (1, 2, 3, 4, 8):
        for draw in range(60):
            if jump_id(work.parent, k, draw) == work.edges[0].node:
                return {"action": f"jump {k}"}
    raise AssertionError("no such jump")


def test_calls_left_are_those_of_finished_walks():
    search = make(budget=150)
    works, _ = carry_out(search, 1)
    sums, counts = Counter(), Counter()
    for work in works:
        calls = work.nfe
        for done, edge in enumerate(edge for edge in work.edges if edge.level):
            sums[edge.level] += calls - done
            counts[edge.level] += 1
    for level in sums:
        prior, n = Chooser(POLICY).calls(level), counts[level]
        assert search.chooser.calls(level) == pytest.approx((prior + sums[level]) / (1 + n))


def test_the_search_ends_when_no_jump_from_any_node_can_be_paid_for():
    """Single steps are predicted to be best, and cost most; what they leave of the budget is spent by larger jumps."""
    search = make(stride=1, policy=Constant(1), budget=61, seeds=2)
    search.chooser._jumps = lambda node, level: [Jump(k, -k, 1.0) for k in (1, 2, 4) if k < level]
    works, _ = carry_out(search, 1)
    assert len({action(work)["action"] for work in works if work.parent}) > 1
    for node in (node for node in search.tree if node.open):
        assert all(node.level - k > search.nfe_left for k in (1, 2, 4) if k < node.level)


def test_walks_that_go_on_are_no_choice_of_the_ige():
    """With `wait` a walk goes on from where it stopped by the policy: such a unit names no version, is not counted among the jumps that
    the IGE had nothing to say about, and only a walk that has come to its end tells what is left to pay."""
    options = {"wait": True, "scored": True, "calibration": lambda level, score: Prior(score, 0.1, 0.2), "share": 1.0}
    search = make("top-m", budget=200, pruning=True, **options)
    learned, learn = [], search.chooser.calls.learn
    search.chooser.calls.learn = lambda levels: (learned.append(list(levels)), learn(levels))
    works, out, went_on = [], [], set()
    while not search.done:
        before = {node.id for node in search.tree if node.waiting}
        new = search.ask(1)
        went_on |= {work.id for work in new if work.parent in before}
        out, works = out + new, works + new
        search.tell(outcome(out.pop(0)))
    choices = [work for work in works if work.parent and work.id not in went_on]
    assert went_on and choices and any(work.version for work in choices)
    assert all(work.version is None for work in works if work.id in went_on)
    assert sum(search.chooser.silent.values()) == sum(work.version is None for work in choices)
    assert len(learned) == sum(work.terminal for work in works) < len(works) and all(levels[-1] == 0 for levels in learned)
