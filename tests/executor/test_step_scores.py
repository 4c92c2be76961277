"""Searches whose states are scored beside the denoiser: the account, the budget, and what is refused before a search starts."""

import json

import pytest

from mcts_ray import SearchConfig, Searcher
from mcts_ray.estimate import count
from mcts_ray.executor.plan import build
from mcts_ray.search.journal import replay
from tests import scorers
from tests.tiny import tiny_pipeline

T = 6
SCORING = ("psp", "fk", "smc-tempered", "bfs", "svdd", "beam", "dfs", "rbf", "nts", "demon", "mcts")


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


@pytest.fixture
def config(tmp_path, monkeypatch):
    scorers.use(monkeypatch)

    def make(which="tapped", algorithm="psp", **fields):
        values = {"algorithm": algorithm, "levels": T, "budget": 8 * T, "guidance": 2.0, "step_reward": "value"}
        return SearchConfig(**values | fields | {"step_model": scorers.folder(tmp_path, which)})

    return make


@pytest.mark.parametrize("algorithm", SCORING)
@pytest.mark.parametrize("max_decodes", [None, 2])
def test_only_images_are_decoded_and_no_budget_is_exceeded(searcher, config, algorithm, max_decodes):
    asked = config(algorithm=algorithm, max_decodes=max_decodes)
    result = searcher("a red circle", asked)
    ledger, images = result.ledger, len(result.finished)
    assert images and ledger.decodes == images <= (max_decodes or images) and ledger.nfe <= 8 * T
    states = ledger.reward_calls - images
    assert ledger.model_forwards == 2 * ledger.nfe + 2 * states
    assert states or algorithm in ("svdd", "beam", "nts", "demon", "rbf")  # where a single child is not valued
    if max_decodes is None:
        assert states and count(["a red circle"], asked).decodes == images


def test_psp_ranks_by_them(searcher, config):
    """As it would by hand: the best half of the seeds, by the mean of eps at the cut, is finished."""
    result = searcher("a red circle", config("eps", record_scores=True))
    children = {node["parent"]: node["id"] for node in result.tree["nodes"]}
    cut = [node["id"] for node in result.tree["nodes"] if node["level"] == T - 1]  # ceil(6 / 4) = 2 calls
    assert len(cut) > 4 and set(cut) <= set(result.scores)
    kept = {node for node in cut if node in children}
    assert kept == set(sorted(cut, key=lambda node: -result.scores[node])[: len(kept)]) and len(kept) == -(-len(cut) // 2)


def test_states_without_a_score_are_out(searcher, config):
    result = searcher("a red circle", config("moody"))
    assert result.finished and not result.errors


def test_recording_them_costs_no_decode_and_changes_no_search(searcher, config, tmp_path):
    asked = config(record_scores=True, max_decodes=3)
    result, plain = searcher("a red circle", asked), searcher("a red circle", asked.model_copy(update={"record_scores": False}))
    assert result.tree == plain.tree and result.ledger.decodes == plain.ledger.decodes
    assert len(result.scores) == result.ledger.nfe and result.ledger.reward_calls == result.ledger.nfe + len(result.finished)
    best = searcher("a red circle", config(algorithm="best-of-n", record_scores=True))
    assert len(best.scores) == best.ledger.nfe == 8 * T and best.ledger.decodes == 8


def test_searches_with_other_step_rewards_in_one_batch_are_the_same(searcher, config):
    from mcts_ray.executor.backend import Task

    asked = [config("eps"), config("tapped", step_reward="lrm"), SearchConfig(algorithm="psp", levels=T, budget=8 * T, guidance=2.0)]
    plans = [searcher.backend.plan(["a red circle"], one, "jpeg") for one in asked]
    tasks = [
        Task(build("pipeline", searcher.backend.denoiser, f"s{i}", "a red circle", plan.config), 6, 1) for i, plan in enumerate(plans)
    ]
    together = searcher.backend.run(tasks, plans[0], "jpeg")
    assert together.error is None
    for one, found in zip(asked, together.found):
        alone = searcher("a red circle", one)
        assert [node["id"] for node in found.nodes] == [node["id"] for node in alone.tree["nodes"]]
        for name in ("nfe", "model_forwards", "decodes", "reward_calls"):
            assert getattr(found.ledger, name) == getattr(alone.ledger, name), name


def test_the_journal_rebuilds_the_search(searcher, config, tmp_path):
    result = searcher("a red circle", config(algorithm="mcts"), out=tmp_path / "run")
    header, *records = map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines())
    again = build("pipeline", searcher.backend.denoiser, header["search"], "a red circle", result.config)
    replay(again, records)
    assert again.nodes() == result.tree["nodes"]


def test_what_is_not_there_stops_before_the_search_starts(searcher, config, tmp_path):
    for fields, sentence in (
        ({"step_model": str(tmp_path / "none")}, "is no folder; name the folder of a value step model"),
        ({"step_model": None}, "model pipeline has no value step model of its own; choose one with step_model"),
    ):
        with pytest.raises(ValueError, match=sentence):
            searcher("a red circle", config().model_copy(update=fields), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
