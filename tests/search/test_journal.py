import json

import pytest

from mcts_ray.search import BestOfN, Cost, Setting
from mcts_ray.search.journal import asked, halted, replay, told

from .fake import outcome_of

SETTING = Setting("a red circle", levels=5)


def make(**options):
    return BestOfN("s", SETTING, 40, **options)


def run_and_record(search, units=5):
    """Ask five units, tell three of them out of order, one of them failed."""
    works = search.ask(units)
    lines = [asked(work) for work in works]
    for seconds, index in enumerate([2, 0, 3]):
        outcome = outcome_of(works[index], "broken" if index == 0 else None)
        search.tick(float(seconds))
        search.tell(outcome)
        lines.append(told(outcome, float(seconds)))
    return [json.loads(json.dumps(line)) for line in lines]


def test_replay_rebuilds_the_same_search():
    search = make()
    lines = run_and_record(search)
    again = make()
    replay(again, [{"type": "header"}, *lines])
    assert again.nodes() == search.nodes()
    assert again.ledger == search.ledger
    assert again.finished == search.finished and again.errors == search.errors
    assert again.in_flight == search.in_flight == 2
    assert again.ask(9) == search.ask(9)


def test_replay_refuses_another_configuration():
    lines = run_and_record(make())
    with pytest.raises(ValueError, match="does not belong to this configuration"):
        replay(make(seed=1), lines)


def test_replay_of_a_halted_search():
    search = make()
    lines = run_and_record(search)
    costs = [Cost(nfe=3), Cost(nfe=2, denoiser_seconds=0.5)]
    search.tick(9.0)
    search.halt(costs)
    again = make()
    replay(again, [*lines, json.loads(json.dumps(halted(costs, 9.0)))])
    assert again.done and again.ledger == search.ledger
