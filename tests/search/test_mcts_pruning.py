"""Rules of pruning in the search: subtrees given up and revived, states let go and made again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import MCTS, Setting
from mcts_ray.search.branching import Branching
from mcts_ray.search.journal import asked, replay, told
from mcts_ray.tree import Fusing, Pruning, Widening
from tests.mixture import Mixture, run

from .fake import carry_out, outcome_of

T = 10
BROAD = dict(seeds=6, stride=5, widening=Widening(4.0))
DROPPING = dict(pruning=Pruning(("statistical", "stages"), z=0.2, least=2), **BROAD)
FORGETFUL = [
    dict(pruning=Pruning(("memory",), cold=0.02), **BROAD),
    dict(pruning=Pruning(("statistical", "stages", "memory"), z=0.2, least=2, cold=0.05), **BROAD),
    dict(pruning=Pruning(("memory",), cold=0.02), count=20, scored=True),
    dict(pruning=Pruning(("stages", "memory"), cold=0.03), fusing=Fusing("innovation", most=2), policy=Constant(2), **BROAD),
    dict(pruning=Pruning(("statistical", "memory"), z=0.2, least=2, cold=0.03), fusing=Fusing("features", retire=True), **BROAD),
]


def make(budget=600, phi=0.5, count=3, **options):
    return MCTS("s", Setting("a red circle", levels=T), budget, Branching(T, phi, count), share=1.0, **{"seeds": 3, "beta": 0.5, **options})


class Store:
    """What an executor keeps: the search is carried out, its states kept and let go as it says."""

    def __init__(self, search, room, fails=lambda work: False):
        self.search, self.kept, self.works, self.lines = search, set(), [], []
        out = []
        while not search.done:
            for work in search.ask(room - len(out)):
                out.append(work)
                self.lines.append(asked(work))
            work = out.pop(0)
            assert work.parent is None or work.parent in self.kept, "a unit starts from a state that has been let go"
            self.works.append(work)
            outcome = outcome_of(work, "broken" if fails(work) else None)
            self.kept |= set() if outcome.error else set(work.keep)
            search.tell(outcome)
            self.lines.append(told(outcome, 0.0))
            self.kept -= set(search.released())


@pytest.mark.parametrize("room", [1, 6])
def test_pruned_nodes_get_no_more_units(room):
    search, out = make(**DROPPING), []
    while not search.done:
        works = search.ask(room - len(out))
        pruned = {node for node in search.tree if node.pruned}
        assert not any(pruned & set(search.tree[work.edges[0].node].path()) for work in works)
        out += works
        search.tell(outcome_of(out.pop(0)))
        assert search.released() == []
    counts = search.pruning
    assert counts["pruned"] == counts["statistical"] + counts["stages"] and min(counts["statistical"], counts["stages"]) > 0
    assert counts["pruned"] > counts["revived"] >= 0 == counts["evicted"] == counts["remade"] and search.ledger.nfe <= 600
    marked = [row for row in search.nodes() if "pruned" in row]
    assert len(marked) == counts["pruned"] - counts["revived"] and all(row["pruned"] is True for row in marked)


def test_hopeless_children_are_never_evaluated():
    search = make(400, pruning=Pruning(("gain",), lambda level, k: 1.0 if level > 6 else 0.0))
    carry_out(search)
    branched = {node.parent.level for node in search.tree if node.phi > 0}
    plain = make(400)
    carry_out(plain)
    assert branched and min(branched) > 6 and min(node.parent.level for node in plain.tree if node.phi > 0) <= 6
    shut = sum(search.branching.opens(node.level + node.k, node.level) and 1 < node.level <= 6 for node in search.tree)
    assert search.pruning["gain"] == shut > 0


def test_without_pruning_nothing_says_so():
    search = make(120)
    carry_out(search)
    assert search.pruning == {} and search.released() == [] and not any("pruned" in row for row in search.nodes())


def test_particles_that_are_retired_are_counted():
    search = make(fusing=Fusing("signed", retire=True), **BROAD)
    carry_out(search)
    entered = {arm for node in (search.tree.root, *search.tree) for arm in node.arms}
    fused = {search.tree[id] for node in search.tree for id in node.particles}
    assert not fused & entered  # those that are not open, nor have anything open below, never were
    assert search.pruning == {"retired": sum(node.open or bool(node.arms) for node in fused)} and search.pruning["retired"] > 0


@pytest.mark.parametrize("options", FORGETFUL)
@pytest.mark.parametrize("room", [1, 6])
def test_states_are_let_go_and_made_again_within_the_budget(options, room):
    search = make(**options)
    store = Store(search, room)
    counts = search.pruning
    assert counts["evicted"] > 0 and counts["remade"] > 0
    assert search.ledger.nfe == sum(work.nfe for work in store.works) <= 600
    assert search.ledger.nfe == sum(node.level > 0 for node in search.tree) + counts["remade"]
    assert all(node.in_flight == 0 for node in search.tree) and search.tree.root.visits == len(store.works)
    plain = make(**{**options, "pruning": None})
    assert len(Store(plain, room).kept) > len(store.kept)


@pytest.mark.parametrize("options", FORGETFUL)
def test_the_path_that_makes_a_state_again_is_the_one_that_made_it(options):
    search = make(**options)
    works = Store(search, 4).works
    for work in works:
        nodes = [search.tree[edge.node] for edge in work.edges]
        for node, edge in zip(nodes, work.edges):
            assert (edge.level, edge.phi) == (node.level, node.phi)
        for above, node in zip(nodes, nodes[1:]):
            assert node.parent is above
        assert work.parent == (None if nodes[0].parent is search.tree.root else nodes[0].parent.id)
    made = [edge.node for work in works for edge in work.edges if edge.level]
    assert len(made) - len(set(made)) == search.pruning["remade"]


@pytest.mark.parametrize("options", FORGETFUL)
@pytest.mark.parametrize("stop", [0.3, 0.6, 1.0])
def test_the_journal_rebuilds_a_search_that_forgets(options, stop):
    lines = Store(make(**options), 4).lines
    again = make(**options)
    replay(again, json.loads(json.dumps(lines[: int(stop * len(lines))])))
    if stop == 1.0:
        search = make(**options)
        Store(search, 4)
        assert again.nodes() == search.nodes() and again.ledger == search.ledger and again.pruning == search.pruning


def test_a_revived_subtree_is_entered_by_states_made_again():
    """Statistical bounds as narrow as here are often wrong, and what they drop is let go at once."""
    search, seen = make(1500, **FORGETFUL[1]), set()
    returned, out = set(), []
    while not search.done:
        out += search.ask(4 - len(out))
        work = out.pop(0)
        returned |= {edge.node for edge in work.edges if edge.node in seen}
        search.tell(outcome_of(work))
        seen |= {below.id for node in search.tree if node.pruned for below in node.path()[:1]}
    assert search.pruning["revived"] > 0 and returned


def test_units_that_make_states_again_and_fail_leave_them_lost():
    search = make(**FORGETFUL[0])
    store = Store(search, 3, fails=lambda work: len(work.edges) > 1 and int(work.id.split("/")[1]) % 5 == 4)
    assert search.errors and search.ledger.nfe <= 600 and store.search.done
    assert search.tree.root.in_flight == 0


@pytest.mark.parametrize("room", [1, 16])
def test_a_state_made_again_is_the_same_state(room):
    """On the exact model, whose engine forgets what the search lets go: every image that a forgetful and a plain search share is the
    same number, and some of those shared came from states that had been made again."""
    model = Mixture()

    def found(pruning):
        search = MCTS("s", model.setting(T), 1200, Branching(T, 0.5, 3), share=1.0, pruning=pruning, **BROAD)
        return search, run(search, model, lambda x: -np.abs(x), room)

    forgetful, images = found(Pruning(("memory",), cold=0.01))
    _, plain = found(None)
    shared = images.keys() & plain.keys()
    assert forgetful.pruning["remade"] > 20 and len(shared) > 20 and not forgetful.errors
    assert all(images[node] == plain[node] for node in shared)


def test_every_constant_comes_from_the_configuration():
    fields = dict(prune=("statistical", "stages", "memory"), prune_z=1.0, prune_least=2)
    fields |= dict(prune_stages=(0.3,), prune_cold=0.5, prune_revive=False)
    config = SearchConfig(algorithm="mcts", levels=T, **fields).resolved(True, (64, 64), "scenes")
    search = MCTS.from_config("s", Setting("", levels=T), config, lambda a, s: 0.0, Constant(1))
    expected = Pruning(fields["prune"], None, 1.0, 2, (0.3,), 0.5, False)
    assert search._pruner.pruning == expected == replace(expected)
    default = SearchConfig(algorithm="mcts", levels=T, prune="stages").resolved(True, (64, 64), "scenes")
    assert MCTS.from_config("s", Setting("", levels=T), default, lambda a, s: 0.0, Constant(1))._pruner.pruning == Pruning(("stages",))
