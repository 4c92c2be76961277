"""Modes of fusion that read what was predicted at the particles, on a real tiny pipeline through the local executor."""

import pytest
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.executor import Job
from mcts_ray.fusion.decoder import DecoderNetwork
from mcts_ray.fusion.fuser import Start, start_of
from mcts_ray.tree.weights import STATES
from tests.executor.test_tree_search import adapter, executor  # noqa: F401
from tests.tiny import tiny_pipeline

FUSING = SearchConfig(algorithm="mcts", levels=8, budget=110, guidance=2.0, images=3, seeds=7, reward="jpeg", in_flight=4)


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder")
    with torch.random.fork_rng(devices=[]):
        DecoderNetwork(16, 4, width=16, blocks=1).save(path, {"tap": "up.0"})
    return str(path)


@pytest.mark.parametrize("mode", sorted(STATES))
def test_they_run_to_their_end_and_every_fused_walk_starts_from_what_the_mode_makes(searcher, folder, mode, monkeypatch):
    """Known trap: a mode that is asked for and not carried out. What the engine was given is remade from what it had kept."""
    config = FUSING.model_copy(update={"fuse": mode, "fuse_model": folder if mode == "decoder" else None})
    plan = searcher.backend.plan(["a red circle"], config, "jpeg")
    run, seen = searcher.backend.executor(plan, "jpeg"), {}
    submit, store = run.engine.submit, run.engine.store

    def watch(units, noise, states):
        for work in (unit for unit in units if unit.fuse):
            node = work.edges[0].node
            kept = {name: store.get(work.search, name) for name in work.fuse.particles}
            seen[node] = start_of(work, (4, 8, 8), kept)
            assert torch.equal((states if seen[node].whole else noise)[node], seen[node].tensor)
        submit(units, noise, states)

    monkeypatch.setattr(run.engine, "submit", watch)
    job = Job(plan.searches[0], in_flight=4, images=3)
    run.run([job])
    search = job.search
    fused = {node.id for node in search.tree if node.particles}
    assert fused == set(seen) and fused and not search.errors and search.ledger.fusions == len(fused)
    assert all(isinstance(start, Start) for start in seen.values())
    assert sum(start.fallback is not None for start in seen.values()) == search.refusals["still"]
    assert search.ledger.nfe == sum(node.level > 0 for node in search.tree) <= 110 and len(store) == 0


def test_two_runs_are_the_same_node_for_node(searcher):
    config = FUSING.model_copy(update={"fuse": "features"})
    one, two = (searcher("a red circle", config) for _ in range(2))
    assert one.tree == two.tree and any(node["action"] == "fuse" for node in one.tree["nodes"])


def test_a_decoder_that_is_not_there_is_a_sentence(searcher, tmp_path):
    config = FUSING.model_copy(update={"fuse": "decoder"})
    with pytest.raises(ValueError, match="fuse decoder needs a network trained for"):
        searcher("a red circle", config)
    with pytest.raises(ValueError, match="fuse decoder finds no network in .*; make one with `mcts-ray train fusion`"):
        searcher("a red circle", config.model_copy(update={"fuse_model": str(tmp_path)}))
