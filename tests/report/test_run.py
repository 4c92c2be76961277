"""The run directory of a real tiny search."""

import json

import numpy as np
import pytest
from PIL import Image

from mcts_ray import SearchConfig, Searcher
from mcts_ray.gain import Constant
from mcts_ray.replay import load
from mcts_ray.replay import replay as replay_scores
from mcts_ray.report.run import check_free, summary, tree_summary
from mcts_ray.search import ALGORITHMS
from mcts_ray.search.base import Setting
from mcts_ray.search.best_of_n import BestOfN
from mcts_ray.search.journal import replay
from tests.tiny import tiny_pipeline

PROMPT = "ein roter Kreis, größer → 红"


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


@pytest.fixture(scope="module")
def result(searcher, tmp_path_factory):
    config = SearchConfig(levels=4, k=3, budget=12, images=2, seed=3, negative_prompt="blur")
    return searcher(PROMPT, config, out=tmp_path_factory.mktemp("runs") / "new" / "run")


def lines(result, name):
    return [json.loads(line) for line in (result.run_dir / name).read_text().splitlines()]


def test_job_holds_the_resolved_configuration(result):
    job = json.loads((result.run_dir / "job.json").read_text())
    assert job["status"] == "done" and job["prompt"] == PROMPT
    assert job["device"] == "cpu" and job["dtype"] == "float32"
    assert SearchConfig(**job["config"]) == result.config
    assert {"python", "torch", "diffusers", "mcts_ray"} <= set(job["versions"])
    assert job["result"] == json.loads(json.dumps(summary(result)))


def test_the_journal_rebuilds_the_search(result):
    header, *records = lines(result, "journal.jsonl")
    assert header["type"] == "header" and header["version"] == 1
    config, setting = SearchConfig(**header["config"]), Setting(**header["setting"])
    search = BestOfN.from_config(header["search"], setting, config, lambda a, s: 0.0, Constant(config.k))
    replay(search, records)
    assert search.nodes() == result.tree["nodes"] and search.done
    assert search.best(2) == result.candidates
    assert search.ledger.nfe == result.ledger.nfe


def test_the_anytime_curve(result):
    curve = lines(result, "metrics.jsonl")
    assert len(curve) == 6 and list(curve[0]) == ["nfe", "seconds", "best"]
    assert [point["nfe"] for point in curve] == [2, 4, 6, 8, 10, 12]
    assert [point["best"] for point in curve] == sorted(point["best"] for point in curve)
    assert curve[-1]["best"] == result.best.reward


def test_the_tree(result):
    tree = json.loads((result.run_dir / "tree.json").read_text())
    assert tree == result.tree
    assert {"id", "parent", "level", "action", "visits", "value"} <= set(tree["nodes"][0])


def test_the_images_say_what_they_are(result):
    paths = sorted((result.run_dir / "images").iterdir())
    assert [path.name for path in paths] == ["01.png", "02.png"]
    for path, candidate in zip(paths, result.candidates, strict=True):
        text = Image.open(path).text
        assert text["prompt"] == PROMPT and text["negative_prompt"] == "blur" and text["seed"] == "3"
        assert text["node"] == candidate.node and float(text["reward"]) == candidate.reward


def test_the_summary_is_the_object_of_the_contract(result):
    report = summary(result)
    names = ["run_dir", "prompt", "algorithm", "model", "reward", "gold", "images", "ledger", "tree"]
    assert list(report) == names
    assert list(report["reward"]) == ["name", "best", "mean"]
    assert report["tree"] == {"nodes": 18, "max_depth": 2, "jumps": {"1": 6, "3": 6}, "fused": 0}
    assert list(report["ledger"])[:2] == ["nfe", "model_forwards"]


def test_tree_summary_of_nothing():
    assert tree_summary([]) == {"nodes": 0, "max_depth": 0, "jumps": {}, "fused": 0}


def test_a_directory_that_holds_a_run_is_refused(result, tmp_path):
    with pytest.raises(ValueError, match="already holds a run; choose another one"):
        check_free(result.run_dir)
    (tmp_path / "notes.txt").write_text("other files do not matter")
    check_free(tmp_path)
    check_free(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="cannot be written"):
            check_free(path)


@pytest.mark.parametrize("algorithm, levels, rows", [("best-of-n", 4, 3), ("mcts", 4, None), ("psp", 6, None)])
def test_recorded_scores_are_those_of_all_states_on_the_way_to_an_image(tmp_path, algorithm, levels, rows):
    searcher = Searcher(tiny_pipeline(), reward="jpeg")
    config = SearchConfig(algorithm=algorithm, levels=levels, budget=3 * levels, record_scores=True)
    result = searcher(PROMPT, config, out=tmp_path / "run")
    plain = searcher(PROMPT, config.model_copy(update={"record_scores": False}))
    assert len(result.tree["nodes"]) == len(plain.tree["nodes"]) and result.ledger.nfe == plain.ledger.nfe  # the search itself is the same
    for one, other in zip(result.tree["nodes"], plain.tree["nodes"], strict=True):  # images share other batches, which may flip a pixel
        assert one == {key: pytest.approx(value, abs=0.02) if isinstance(value, float) else value for key, value in other.items()}
    assert result.ledger.decodes == result.ledger.nfe + len(result.finished)
    with np.load(tmp_path / "run" / "scores.npz") as found:
        scores, final = found["scores"], found["final"]
    assert scores.shape == (1, len(result.finished), levels) and final.tolist() == [[c.reward for c in result.finished]]
    assert rows is None or scores.shape[1] == rows
    assert np.isfinite(scores).all()
    assert load(tmp_path / "run" / "scores.npz").samples == len(result.finished)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_writes_scores_that_can_be_replayed(searcher, tmp_path, algorithm):
    """One column for each of T calls, none of it empty: `psp` ranks by the same calls whoever wrote the file."""
    config = SearchConfig(algorithm=algorithm, levels=8, budget=40, record_scores=True, seed=1)
    result = searcher("a cat", config, out=tmp_path / "run")
    records = load(tmp_path / "run" / "scores.npz")
    assert records.scores_PNS.shape == (1, len(result.finished), 8) and np.isfinite(records.scores_PNS).all()
    level = {node["id"]: node["level"] for node in result.tree["nodes"]}
    found = {(level[node], score) for node, score in result.scores.items()}
    assert all((8 - call, score) in found for row in records.scores_PNS[0] for call, score in enumerate(row))
    if algorithm == "dfs":
        assert len(result.scores) > 8 * len(result.finished)  # some trajectory was sent back
    if records.samples >= 4:
        assert replay_scores(records, "psp", [2])[0].budget == 2


def test_scores_cannot_be_recorded_when_decodes_are_limited():
    with pytest.raises(ValueError, match="record_scores decodes every state"):
        SearchConfig(record_scores=True, max_decodes=3)
