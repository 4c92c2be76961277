"""The choice of k from what is predicted, by hand."""

from collections import Counter

import pytest

from mcts_ray.gain.choose import CallsLeft, Chooser, Gains, Jump, Transition, gains_of
from mcts_ray.gain.policy import Constant, Table
from mcts_ray.search.journal import asked, outcome_of, told
from mcts_ray.search.base import Cost, Outcome, Setting, Work

JUMPS = (Jump(1, 0.0, 0.0), Jump(2, -0.01, 0.04), Jump(4, -0.05, 0.01, 0.2))


def chooser(choice="greedy", price=0.0, **options):
    found = Chooser(Constant(1), choice, price, **options)
    found.learn(Gains("n", 3, JUMPS))
    return found


def test_calls_left():
    """n(0) = 0; at first those of the policy, which count as one walk, then their mean with the walks that were paid for."""
    calls = CallsLeft(Table((1, 1, 2, 2, 2, 2)))
    assert [calls(level) for level in range(7)] == [0, 1, 2, 2, 3, 3, 4]
    calls.learn([5, 1, 0])  # two calls from 5 on, one from 1 on
    assert calls(5) == pytest.approx((3 + 2) / 2) and calls(1) == 1 and calls(4) == 3
    calls.learn([5, 4, 3, 2, 1, 0])
    assert calls(5) == pytest.approx((3 + 2 + 5) / 3) and calls(4) == pytest.approx((3 + 4) / 2) and calls(0) == 0


def test_greedy_is_the_net_value():
    """From level 6, k steps of 1 remain 6 - k calls: value -0.01 for one call fewer is worth it from a price of .01 on."""
    assert chooser().k("n", 6, 0) == 1
    assert chooser(price=0.009).k("n", 6, 0) == 1
    assert chooser(price=0.011).k("n", 6, 0) == 2
    assert chooser(price=0.019).k("n", 6, 0) == 2
    assert chooser(price=0.021).k("n", 6, 0) == 4
    assert chooser(price=0.02).k("n", 6, 0) == 4  # of equal ones the larger
    assert chooser(price=1.0).k("n", 4, 0) == 2  # a jump of 4 would end at level 0
    assert chooser(price=1.0, sizes=(1, 2)).k("n", 6, 0) == 2


def test_top_m_takes_turns():
    found = chooser("top-m", top=2)
    assert [found.k("n", 6, draw) for draw in range(5)] == [1, 2, 1, 2, 1]
    assert [chooser("top-m", top=9).k("n", 6, draw) for draw in range(4)] == [1, 2, 4, 1]


def test_sample_follows_the_distribution():
    """Jump 1 is 0 for certain, 2 is N(-.01, .2^2), 4 is N(-.05, .1^2). P(1) = P(z > .05) P(z > -.5...) = .520 * .691 = .3594 by the
    normal table; 2000 draws: |share - P| < 4.5 sd = .048, false alarm 7e-6."""
    found = chooser("sample")
    counts = Counter(found.k("n", 6, draw) for draw in range(2000))
    assert counts[1] / 2000 == pytest.approx(0.3594, abs=0.048) and counts[2] > counts[4] > 100
    again = chooser("sample")
    assert [again.k("n", 6, draw) for draw in range(50)] == [found.k("n", 6, draw) for draw in range(50)]


def test_hopeless_jumps():
    """The best that may be hoped of 4, -.05 + 2 x .1, is above what is certain of 1; with less variance it is not."""
    found = chooser()
    assert found.margin("n", 6, 4) == pytest.approx(0.15) and found.margin("n", 6, 1) == pytest.approx(0.25)
    found.learn(Gains("n", 3, (JUMPS[0], Jump(4, -0.05, 1e-4))))
    assert found.margin("n", 6, 4) == pytest.approx(-0.03) and found.margin("n", 6, 2) is None and found.margin("m", 6, 1) is None
    assert chooser().k("n", 6, 1, lambda k: k != 1) == 2
    assert found.k("n", 6, 1, lambda k: False) == 1  # something must be chosen


@pytest.mark.parametrize("choice", ["top-m", "sample"])
def test_a_hopeless_jump_is_never_made(choice):
    """4 is .05 below what is certain of 1, with an sd of .01; where 1 cannot be paid for, nothing else is offered in its place."""
    found = chooser(choice, top=3)
    found.learn(Gains("n", 3, (JUMPS[0], Jump(4, -0.05, 1e-4))))
    assert {found.k("n", 6, draw) for draw in range(200)} == {1}
    assert found.k("n", 6, 0, lambda k: k != 1) == 1
    found.learn(Gains("n", 3, (Jump(1, 0.0, 0.0), Jump(2, 0.0, 0.0))))
    assert found.k("n", 6, 0) == 2  # of equal ones none is hopeless


def test_without_predictions_the_fallback_chooses():
    found = Chooser(Table((1, 1, 2, 2, 3, 6)))
    found.learn(Gains("n", 3, ()))
    assert found.k("n", 5, 0) == 3 and found.k("gone", 6, 0) == 5
    assert found.version("n", 5) is None and found.version("gone", 6) is None


def test_where_nothing_is_said_of_the_jumps_that_may_be_made_the_fallback_chooses():
    found = Chooser(Table((4,) * 8), sizes=(2, 4))
    found.learn(Gains("n", 3, JUMPS))
    assert found.k("n", 6, 0) in (2, 4) and found.version("n", 6) == 3
    found.learn(Gains("n", 3, (Jump(1, 0.0, 0.0), Jump(8, 0.0, 0.0))))
    assert found.k("n", 6, 0) == 4 and found.k("n", 4, 0) == 2 and found.version("n", 6) is None
    only = Chooser(Table((8,) * 8), sizes=(8,))
    assert only.k("n", 6, 0) == 5  # no jump of 8 is left


def test_transitions_are_pairs_that_differ_in_k_alone():
    found = chooser()
    found.learn(Gains("n", 3, JUMPS, b"xy"))
    for k, phi, reward in ((1, 0.5, 0.2), (2, 0.5, 0.5), (2, 0.3, 9.0), (1, 0.5, 0.1), (4, 0.5, 0.0)):
        found.returned("n", 6, k, phi, reward)
    found.returned("elsewhere", 6, 1, 0.5, 0.0)
    pairs = [(t.k, t.other, round(t.difference, 6)) for t in found.transitions()]
    assert pairs == [(2, 1, 0.3), (1, 2, -0.4), (4, 1, -0.1), (4, 2, -0.5)] and not found.transitions()
    found.returned("n", 6, 2, 0.5, 1.0)
    assert found.transitions()[0] == Transition(b"xy", 6, 2, 1, pytest.approx(0.9))


def test_the_journal_keeps_versions_and_predictions_but_no_features():
    work = Work("w", "s", Setting(""), "p", "jump", (), version=3)
    assert asked(work)["version"] == 3 and "version" not in asked(Work("w", "s", Setting(""), None, "seed", ()))
    gains = Gains("n", 3, JUMPS, b"xy")
    record = told(Outcome("w", "s", 0, Cost(), 0.5, gains=(gains,)), 1.0)
    assert record["gains"][0] == {"node": "n", "version": 3, "jumps": record["gains"][0]["jumps"]}
    assert outcome_of(record).gains == (Gains("n", 3, JUMPS),) == (gains_of(record["gains"][0]),)
    assert "gains" not in told(Outcome("w", "s", 0, Cost(), 0.5), 1.0)
