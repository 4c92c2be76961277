import pytest

from mcts_ray.search import PSP, BestOfN, Cost, Edge, Ledger, Outcome, Setting, Work

from .fake import carry_out, outcome_of, worth

SETTING = Setting("a red circle", levels=6)


def make(budget=60, **options):
    return BestOfN("s", SETTING, budget, **options)


def test_work_counts_its_evaluations():
    work = Work("w", "s", SETTING, None, "seed", (Edge("a", 6), Edge("b", 3), Edge("c", 0)))
    assert (work.nfe, work.terminal, work.decodes) == (2, True, 1)


def test_ledger_adds_every_field_and_prints_the_contract_names():
    ledger = Ledger()
    ledger.add(Cost(1, 2, 3, 4, 5, 0.5))
    ledger.add(Cost(nfe=1, denoiser_seconds=0.25))
    names = ["nfe", "model_forwards", "decodes", "reward_calls", "fusions", "seconds", "denoiser_seconds"]
    assert list(ledger.to_dict()) == names
    assert list(ledger.to_dict().values()) == [2, 2, 3, 4, 5, 0.0, 0.75]


def test_ask_gives_at_most_room_units_and_never_exceeds_the_budget():
    search = make(budget=32)
    assert [len(search.ask(3)), len(search.ask(3)), len(search.ask(3))] == [3, 2, 0]
    assert search.nfe_left == 2 and search.in_flight == 5 and not search.done


def test_max_decodes_is_reserved_at_ask():
    search = make(max_decodes=2)
    assert len(carry_out(search)) == 2
    assert search.ledger.decodes == 2


def test_what_is_left_is_the_budget_less_what_is_spent_and_in_flight():
    """Sums are kept as units come and go, also by units that fail, cost less than they reserved, are issued again or abandoned."""
    search = make(budget=200, max_decodes=30)

    def check():
        out = search._in_flight.values()
        assert search.nfe_left == 200 - search.ledger.nfe - sum(work.nfe for work in out)
        assert search.decodes_left == 30 - search.ledger.decodes - sum(work.decodes for work in out)

    works = search.ask(7)
    check()
    search.tell(outcome_of(works[0]))
    search.tell(outcome_of(works[1], "broken"))
    search.tell(Outcome(works[2].id, "s", works[2].epoch, Cost(nfe=1), error="broken"))
    check()
    search.tell(outcome_of(search.reissue(works[3].id)))
    assert not search.tell(outcome_of(works[3]))
    check()
    search.halt([Cost(nfe=2)])
    check()
    assert search.nfe_left == 200 - search.ledger.nfe


def test_duplicate_foreign_and_old_outcomes_change_nothing():
    search = make()
    work = search.ask(1)[0]
    outcome = outcome_of(work)
    old = Outcome(work.id, "s", work.epoch - 1, Cost(nfe=6), 1.0)
    assert not search.tell(old)
    assert search.tell(outcome)
    before = search.ledger.to_dict(), search.best(9)
    assert not search.tell(outcome)
    assert not search.tell(Outcome("s/99", "s", 0, Cost(nfe=6), 1.0))
    assert before == (search.ledger.to_dict(), search.best(9))


def test_best_is_sorted_anytime_and_records_what_had_been_spent():
    search = make()
    assert search.best(3) == []
    carry_out(search, room=1)
    rewards = [candidate.reward for candidate in search.best(10)]
    assert rewards == sorted((worth(c.node) for c in search.finished), reverse=True)
    assert [candidate.nfe for candidate in search.finished] == list(range(6, 61, 6))


def test_equal_rewards_keep_the_earlier_first():
    search = make()
    for work in search.ask(3):
        search.tell(Outcome(work.id, "s", 0, Cost(nfe=6, decodes=1), 0.5))
    assert search.best(3) == search.finished


def test_a_failed_unit_is_booked_and_the_search_goes_on():
    search = make()
    works = carry_out(search, fails=lambda work: work.id.endswith("/0"))
    assert len(works) == 10 and search.done
    assert search.ledger.nfe == 60 and search.ledger.decodes == 9
    assert search.errors == ["broken"] and len(search.finished) == 9


def test_the_clock_ends_the_asking_and_units_in_flight_may_still_come_in():
    search = make(max_seconds=2.0)
    works = search.ask(2)
    search.tick(1.9)
    assert len(search.ask(1)) == 1 and not search.out_of_time
    search.tick(2.0)
    assert search.ask(5) == [] and search.out_of_time and not search.done
    assert search.tell(outcome_of(works[0]))
    search.halt()
    assert search.done
    assert not search.tell(outcome_of(works[1]))


def test_halt_books_what_abandoned_units_had_spent():
    search = make()
    search.ask(2)
    search.halt([Cost(nfe=3, model_forwards=6), Cost(nfe=2, model_forwards=4)])
    assert search.done and search.in_flight == 0
    assert (search.ledger.nfe, search.ledger.model_forwards) == (5, 10)


@pytest.mark.parametrize("room", [1, 3, 100])
def test_room_does_not_change_what_is_found(room):
    search = make()
    carry_out(search, room=room)
    assert {c.node for c in search.finished} == {w.edges[-1].node for w in carry_out(make())}


def test_recorded_scores_are_kept_and_change_no_search():
    plain, recorded = (PSP("s", SETTING, 60) for _ in range(2))
    recorded.record_scores = True
    carry_out(plain)
    works = carry_out(recorded)
    evaluated = [edge.node for work in works for edge in work.edges if edge.level > 0]
    assert recorded.scores == {node: worth(node) for node in evaluated}
    assert recorded.nodes() == plain.nodes() and [c.node for c in recorded.finished] == [c.node for c in plain.finished]
    assert recorded.ledger.decodes == len(evaluated) + len(recorded.finished) and plain.scores == {}
