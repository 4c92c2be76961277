"""Fuse-and-deepen in a whole search: what goes out, what is refused, and what the account and the journal say of it."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from mcts_ray.search.base import Outcome
from mcts_ray.search.ids import fuse_id, root_id
from mcts_ray.search.journal import asked, replay, told
from mcts_ray.tree import Fusing, Widening
from mcts_ray.tree.weights import MODES, STATES, Fused

from .fake import carry_out, carry_out_in_flight, outcome_of, refusal_of
from .test_mcts import EVERY, FUSED, T, make


@pytest.mark.parametrize("options", FUSED)
@pytest.mark.parametrize("room", [1, 4])
def test_units_of_fusion_say_how_their_noise_is_made(options, room):
    search = make(400, share=1.0, **options)
    fused = [work for work in carry_out_in_flight(search, room) if work.fuse]
    assert {work.parent is None for work in fused} == {True, False}  # seeds are fused, and children of inner nodes
    assert search.ledger.fusions == len(fused) == sum(work.action == "fuse" for work in fused)
    rows = {row["id"]: row for row in search.nodes()}
    assert {id for id, row in rows.items() if row["action"] == "fuse"} == {work.edges[0].node for work in fused}
    for work in fused:
        fuse, node = work.fuse, search.tree[work.edges[0].node]
        assert node.id == fuse_id(work.parent or root_id(0), fuse.mode, fuse.particles, fuse.weights, *([fuse.draw] if fuse.draw else []))
        assert fuse.mode == options["fusing"].mode and len(fuse.weights) == len(fuse.particles) >= 6
        assert rows[node.id]["particles"] == list(fuse.particles) and rows[node.id]["parent"] == work.parent
        for particle in (search.tree[id] for id in fuse.particles):
            assert particle.parent is node.parent and not particle.particles
            assert (particle.level, particle.k, particle.phi) == (node.level, node.k, node.phi)
    assert all("particles" not in row for row in rows.values() if row["action"] != "fuse")


def test_a_fusion_goes_on_only_where_its_child_would_be_a_sibling():
    """The jump of the next child may have been chosen anew since the first of an ensemble was made."""
    search = make(400, **EVERY[-2])
    while search._begun is None:
        (work,) = search.ask(1)
        if search._begun is None:
            search.tell(outcome_of(work))
    begun = search._begun
    assert search._selected() is begun
    level, k, phi = begun.kernel
    search._begun, search._known = replace(begun, kernel=(level - 1, k + 1, phi)), None
    assert search._selected() is not search._begun


def test_a_refusal_is_counted_once_for_a_set_and_logged(caplog):
    caplog.set_level("INFO")
    search = make(200, seeds=9, fusing=Fusing("innovation"))
    for index, work in enumerate(search.ask(9)):
        search.tell(replace(outcome_of(work), reward=0.5))
        assert search.refusals == ({"flat": 1} if index >= 5 else {})
    assert [record.reason for record in caplog.records if record.message == "fusion refused"] == ["flat"]


@pytest.mark.parametrize("options", FUSED)
def test_no_set_is_fused_more_often_than_it_may(options):
    search = make(400, share=1.0, **options)
    carry_out_in_flight(search, 6)
    for node in (search.tree.root, *search.tree):
        events = Counter(child.particles for child in node.children if child.particles)
        sizes = sorted(map(len, events))
        assert len(sizes) <= options["fusing"].most and all(n <= options["fusing"].children for n in events.values())
        assert all(two >= 2 * one for one, two in zip(sizes, sizes[1:]))


def test_refused_fusions_cost_nothing_close_nothing_and_come_to_an_end():
    search = make(400, share=1.0, **FUSED[0])
    asked_for = 0
    while not search.done:
        for work in search.ask(3):
            asked_for += work.fuse is not None
            search.tell(refusal_of(work) if work.fuse else outcome_of(work))
    assert asked_for > 2 and search.refusals["copy"] == asked_for and not search.errors
    assert search.ledger.fusions == 0 and search.ledger.nfe == sum(node.level > 0 for node in search.tree)
    assert not any(node.particles or node.lost or node.in_flight for node in (search.tree.root, *search.tree))
    plain = make(400, share=1.0, **{**FUSED[0], "fusing": None})
    carry_out(plain, 3)
    seeds = [[node.id for node in s.tree.root.children][:6] for s in (search, plain)]
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize("room", [1, 6])
def test_one_ensemble_makes_several_children_one_after_the_other(room):
    search = make(400, share=1.0, **FUSED[3])
    works = carry_out_in_flight(search, room)
    fused = [i for i, work in enumerate(works) if work.fuse]
    events = [[works[i] for i in fused[at : at + 3]] for at in range(0, len(fused) - len(fused) % 3, 3)]
    assert len(events) > 1
    for units in events:
        assert [unit.fuse.draw for unit in units] == [0, 1, 2] and len({unit.fuse.particles for unit in units}) == 1
        assert len({unit.edges[0].node for unit in units}) == 3
    assert all(works[i + 1].fuse for i in fused[: len(fused) // 3 * 3] if works[i].fuse.draw < 2)


def test_a_refused_ensemble_makes_no_further_child():
    search = make(400, share=1.0, **FUSED[3])
    draws = []
    while not search.done:
        for work in search.ask(1):
            draws += [work.fuse.draw] if work.fuse else []
            search.tell(refusal_of(work) if work.fuse else outcome_of(work))
    assert len(draws) > 1 and set(draws) == {0} and search.refusals["copy"] == len(draws)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_states_of_particles_are_kept_where_the_mode_reads_them(mode):
    """Of every unfused child that noise has made, open or not; of no fused one."""
    search = make(300, share=1.0, seeds=6, stride=5, widening=Widening(4.0), fusing=Fusing(mode))
    works = {work.edges[0].node: work for work in carry_out_in_flight(search, 4)}
    fused = [work for work in works.values() if work.fuse]
    assert fused
    if mode in STATES:
        assert all(particle in works[particle].keep for work in fused for particle in work.fuse.particles)
    extra = {node for work in works.values() for node in work.keep if not search.tree[node].open}
    assert bool(extra) == (mode in STATES) and not any(search.tree[node].particles for node in extra)


def test_what_was_fused_by_innovation_instead_is_counted_and_is_in_the_journal():
    search, lines = make(300, share=1.0, **FUSED[4]), []
    fused = 0
    while not search.done:
        for work in search.ask(1):
            lines.append(asked(work))
            fused += work.fuse is not None
            said = Fused("still", 0.71, 3.4) if work.fuse else Fused()
            outcome = replace(outcome_of(work), **vars(said))
            search.tell(outcome)
            lines.append(told(outcome, 0.0))
    assert search.refusals["still"] == fused == search.ledger.fusions > 0
    assert sum(line.get("cosine") == 0.71 and line["ess"] == 3.4 for line in lines) == fused == sum("ess" in line for line in lines)
    said = {tuple(node[name] for name in vars(Fused())) for node in search.nodes() if node["action"] == "fuse"}
    assert said == {("still", 0.71, 3.4)}
    assert not any("ess" in node for node in search.nodes() if node["action"] != "fuse")
    again = make(300, share=1.0, **FUSED[4])
    replay(again, json.loads(json.dumps(lines)))
    assert again.refusals == search.refusals and again.nodes() == search.nodes()


def test_fusions_that_fail_are_lost_work():
    search = make(400, share=1.0, **FUSED[0])
    works = carry_out_in_flight(search, 3, fails=lambda work: work.fuse is not None)
    failed = [work for work in works if work.fuse]
    assert len(search.errors) == len(failed) > 2 and not search.refusals["copy"]
    assert sum(node.lost for node in (search.tree.root, *search.tree)) == len(failed)
    assert len({work.edges[0].node for work in works}) == len(works)


def test_rewards_that_admit_no_fusion_are_noted():
    search = make(100, **FUSED[0])
    while not search.done:
        for work in search.ask(1):
            outcome = outcome_of(work)
            search.tell(Outcome(work.id, "s", 0, outcome.cost, 0.5))
    assert search.refusals["flat"] > 0 and search.ledger.fusions == 0


def test_fused_noise_begins_a_family_of_images():
    search = make(300, share=1.0, **FUSED[0])
    carry_out(search)
    fused = [node for node in search.tree if node.particles]
    assert {node.k for node in fused} > {0}
    for node in fused:
        leaf = node
        while leaf.children:
            leaf = leaf.children[0]
        family, branch = search._families._of[leaf.id]
        assert branch == node.id and (family == node.id) == (node.level + node.k > T / 2)
