import json
from pathlib import Path

import pytest

from mcts_ray.gain import Anchors, Constant, Table
from mcts_ray.search import MCTS, Setting
from mcts_ray.search.base import Cost, Outcome
from mcts_ray.search.branching import Branching
from mcts_ray.search.ids import jump_id, seed_id
from mcts_ray.search.journal import asked, halted, replay, told
from mcts_ray.tree import Fusing, Prior, Pruning, Soft, Widening, maximum
from mcts_ray.tree.backup import make_rule

from .fake import carry_out, carry_out_in_flight, journalled, outcome_of, refusal_of, worth

GOLDEN = sorted(Path(__file__).parent.parent.glob("golden/*.json"))
T = 10


def make(budget=120, levels=T, phi=0.5, count=3, **options):
    setting = Setting("a red circle", levels=levels)
    return MCTS("s", setting, budget, Branching(levels, phi, count), **{"seeds": 3, "beta": 0.5, **options})


def prior_of(level, score):
    return Prior(score, 0.1 * level, 0.5)


EVERY = [
    dict(),
    dict(policy=Constant(3), stride=1),
    dict(policy=Table((1, 1, 2, 2, 2, 3, 3, 4, 4, 4)), rule=maximum),
    dict(policy=Anchors((10, 7, 5, 2)), rule=Soft(4.0), widening=Widening(2.0, 0.5)),
    dict(policy=Constant(2), stride=4, rule=Soft(4.0, "mean"), scored=True, max_decodes=40),
    dict(count=20, scored=True, calibration=prior_of),
    dict(phi=0.0),
    dict(pruning=Pruning(("statistical", "stages"), z=0.2, least=2), seeds=6, stride=5, widening=Widening(4.0)),
    dict(pruning=Pruning(("gain",), lambda level, k: level - 5)),
    dict(seeds=6, stride=5, policy=Constant(2), widening=Widening(4.0), fusing=Fusing("innovation", most=2)),
    dict(seeds=6, stride=5, widening=Widening(4.0), rule=Soft(4.0), fusing=Fusing("signed", depth=2, retire=True)),
    dict(seeds=6, stride=5, count=20, scored=True, calibration=prior_of, fusing=Fusing("signed", after=7)),
    dict(seeds=6, stride=5, policy=Constant(2), widening=Widening(4.0), fusing=Fusing("ensemble", most=2, children=3)),
    dict(seeds=6, stride=5, policy=Constant(2), widening=Widening(4.0), scored=True, fusing=Fusing("x0_transport", retire=True)),
]
FUSED = EVERY[-5:]


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_trees(file):
    golden = json.loads(file.read_text())
    o = golden["case"]
    search = make(
        o["budget"],
        o["levels"],
        o["phi"],
        o["count"],
        seed=o["seed"],
        seeds=o["seeds"],
        beta=o["beta"],
        policy=Constant(o["k"]),
        stride=o["stride"],
        widening=Widening(o["c"], o["a"]),
        rule=make_rule(o["backup"], 4.0, o["across"]),
        share=1.0,
        fusing=Fusing(**o["fusing"]) if "fusing" in o else None,
    )
    carry_out_in_flight(search, o["room"])
    nodes = {node["id"]: node for node in search.nodes()}
    assert nodes.keys() == {node["id"] for node in golden["nodes"]}
    for node in golden["nodes"]:
        assert nodes[node["id"]] == {**node, "value": pytest.approx(node["value"], abs=1e-12), "score": None}


def test_there_are_golden_trees():
    assert len(GOLDEN) == 5


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("room", [1, 4, 50])
def test_budgets_hold_and_the_account_is_exact(options, room):
    search = make(133, share=1.0, **options)
    works = carry_out_in_flight(search, room)
    tree = search.tree
    assert search.ledger.nfe == sum(work.nfe for work in works) <= 133
    assert search.ledger.decodes == sum(work.decodes for work in works) <= (search.max_decodes or 1000)
    assert tree.root.visits == len(works) == len(search.finished) and tree.root.in_flight == 0
    assert all(node.in_flight == 0 and node.visits == node.returns >= 1 for node in tree)
    assert search.ledger.nfe == sum(node.level > 0 for node in tree)  # every state is evaluated once
    for node in tree:
        assert node.visits == (1 if node.terminal else sum(child.visits for child in node.children))
        assert node.best >= node.total / node.returns - 1e-12
        assert all(child.level == node.level - child.k for child in node.children)


@pytest.mark.parametrize("options", EVERY)
def test_phi_depends_on_the_parent_level_alone_and_rollouts_have_none(options):
    search = make(**options)
    carry_out(search)
    for node in search.tree:
        if node.phi > 0:
            assert node.parent.open and node.phi == search.branching.angle(node.parent.level)
            assert node.parent.level > T / 5 and node.level > 0
    assert all(search.branching.angle(node.level) > 0 for node in search.tree if node.open)


@pytest.mark.parametrize("options", EVERY)
def test_units_start_from_kept_states_and_the_ids_can_be_replayed(options):
    search = make(**options)
    kept = set()
    for work in carry_out(search, room=1):
        assert (work.parent is None) == (work.edges[0].level == T) and (work.action == "seed") <= (work.parent is None)
        assert work.parent is None or work.parent in kept
        kept |= set(work.keep)
        for above, edge in zip(work.edges, work.edges[1:]):
            assert edge.node == jump_id(above.node, above.level - edge.level) and edge.phi == 0
    seeds = [node.id for node in search.tree.root.children if node.action == "seed"]
    assert seeds == [seed_id(0, index) for index in range(len(seeds))]


@pytest.mark.parametrize("options", EVERY)
def test_the_same_schedule_gives_the_same_tree(options):
    one, two = make(share=0.5, **options), make(share=0.5, **options)
    assert carry_out_in_flight(one, 5) == carry_out_in_flight(two, 5)
    assert one.nodes() == two.nodes() and one.finished == two.finished


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("stop", [5, 9, 13, 40])
def test_the_journal_rebuilds_the_identical_tree(options, stop):
    def answer(work, step):
        return refusal_of(work) if work.fuse and step % 2 else outcome_of(work, "broken" if step == 3 else None)

    search = make(share=0.5, **options)
    lines = journalled(search, stop, answer)
    again = make(share=0.5, **options)
    replay(again, json.loads(json.dumps(lines)))
    assert again.nodes() == search.nodes() and again.ledger == search.ledger and again.best(3) == search.best(3)
    assert again.refusals == search.refusals
    hidden = [[(n.in_flight, n.certainty, n.draws, n.lost, len(n.arms)) for n in s.tree] for s in (again, search)]
    assert hidden[0] == hidden[1]
    assert again.ask(3) == search.ask(3)


def test_seeds_come_first_all_at_once_and_then_values_decide():
    search = make(200, seeds=4)
    works = search.ask(50)
    assert [work.action for work in works] == ["seed"] * 4 and all(work.nfe == T for work in works)
    assert search.ask(50) == [] and not search.done
    for work in works:
        search.tell(outcome_of(work))
    later = search.ask(50)
    assert later and all(work.action == "jump" for work in later)


def test_half_of_the_budget_goes_to_the_first_seeds_by_default():
    assert make(200, seeds=None).seeds == 10
    assert make(15, seeds=None).seeds == 1


def test_what_values_chose_is_capped_in_flight():
    search = make(400, share=0.05)
    for work in search.ask(3):
        search.tell(outcome_of(work))
    out = search.ask(100)
    assert out and sum(work.nfe for work in out) <= 20


def test_branches_are_spread_over_the_middle_levels():
    search = make(400, levels=30, seeds=2)
    carry_out(search, room=1)
    assert {node.parent.level for node in search.tree if node.phi > 0} == {24, 18, 12}


def test_lost_work_leaves_no_trace_but_its_cost():
    def fails(work):
        return int(work.id.split("/")[1]) % 4 == 2

    search = make(200, share=1.0)
    works = carry_out_in_flight(search, 4, fails)
    failed = [work for work in works if fails(work)]
    assert len(search.errors) == len(failed) > 2
    assert search.ledger.nfe == sum(work.nfe for work in works) <= 200
    assert not {node.id for node in search.tree} & {work.edges[0].node for work in failed}
    assert search.tree.root.in_flight == 0 and search.tree.root.visits == len(works) - len(failed)
    assert len({work.edges[0].node for work in works}) == len(works)  # no noise twice


def test_when_everything_fails_the_search_ends():
    search = make(10_000)
    works = carry_out_in_flight(search, 4, fails=lambda work: True)
    assert search.done and len(works) < 20 and search.best(1) == []


def test_units_that_fail_for_free_do_not_go_on_for_ever():
    search = make(500)
    while not search.done:  # as when the state of a parent has been lost
        for work in search.ask(1):
            lost = Outcome(work.id, "s", 0, Cost(), error="gone")
            search.tell(lost if work.parent else outcome_of(work))
    assert search.done and len(search.errors) <= 3 * sum(node.open or node.lost for node in search.tree)


def test_halt_takes_in_flight_work_out_of_the_tree():
    search = make()
    works = search.ask(3)
    search.tell(outcome_of(works[0]))
    lines = [*map(asked, works), told(outcome_of(works[0]), 0.0), halted([Cost(nfe=4)], 1.0)]
    search.tick(1.0)
    search.halt([Cost(nfe=4)])
    assert search.done and search.tree.root.in_flight == 0 and len(search.tree.root.children) == 1
    again = make()
    replay(again, json.loads(json.dumps(lines)))
    assert again.nodes() == search.nodes() and again.ledger == search.ledger


def test_step_scores_stay_on_their_nodes_until_there_is_a_calibration():
    plain, scored = make(), make(scored=True)
    carry_out(plain, room=1)
    carry_out(scored, room=1)
    assert [node.value for node in plain.tree] == [node.value for node in scored.tree]
    assert {node.id: node.score for node in scored.tree} == {n.id: worth(n.id) if n.open else None for n in scored.tree}
    calibrated = make(scored=True, calibration=lambda level, score: Prior(score, 1.0, 0.5))
    carry_out(calibrated, room=1)
    some = next(node for node in calibrated.tree if node.open)
    assert some.value == pytest.approx((2 * some.score + some.total) / (2 + some.returns))


def test_the_returned_images_parted_early():
    search = make(600, levels=20, seeds=2)
    carry_out(search, room=1)
    assert len(search.finished) > 30
    best = search.best(4)
    assert len(best) == 4 and best[0] == max(search.finished, key=lambda c: c.reward)
    assert [c.reward for c in best] == sorted((c.reward for c in best), reverse=True)
    for one in best:
        for two in best:
            if one is not two:
                others = search.tree[two.node].path()
                parted = next(node for node in search.tree[one.node].path() if node in others)
                assert parted.level > 10
