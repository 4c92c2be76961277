import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mcts_ray.reward.lrm.collect import pair_up, run, scored, scores_of
from mcts_ray.reward.lrm.pairs import read_pairs


def test_all_pairs_of_a_prompt_by_score_with_ties_by_the_pooled_spread():
    records = [
        {"prompt": "a", "images": ["0", "1", "2"], "scores": [0.0, 1.0, 0.95]},
        {"prompt": "b", "images": ["3", "4"], "scores": [0.5, 0.5]},
        {"prompt": "c", "images": ["5"], "scores": [0.5]},
    ]
    pairs = pair_up(records)
    spread = np.sqrt((np.var([0, 1, 0.95]) + 0) / 2)
    assert 0.05 < 0.25 * spread < 0.95
    assert [(p["better"], p["worse"], p["tie"]) for p in pairs] == [
        ("1", "0", False), ("2", "0", False), ("1", "2", True), ("3", "4", True)
    ]  # fmt: skip
    assert [p["prompt"] for p in pairs] == ["a", "a", "a", "b"] and pair_up([]) == []


def collect(tiny_folder, out, prompts=("a fox", "a hen"), **options):
    return run(str(tiny_folder), "jpeg", list(prompts), out, images=3, levels=2, device="cpu", **options)


def test_collected_pairs_are_pairs_and_go_on_where_they_stopped(tiny_folder, tmp_path):
    lines = []
    whole = collect(tiny_folder, tmp_path / "whole", report=lines.append)
    pairs = read_pairs(whole)
    assert pairs.prompts == ("a fox", "a hen") and len(pairs) == 6 and len(pairs.images) == 6
    assert Image.open(whole / "images/00000-00.png").size == (32, 32) and lines[-1].startswith("6 pairs of 2 prompts")
    parts = collect(tiny_folder, tmp_path / "parts", prompts=["a fox"])
    (parts / "scores.partial").write_text('{"prompt": "a hen", "ima')  # a run that was cut off while it wrote
    before = (parts / "images/00000-00.png").stat().st_mtime_ns
    collect(tiny_folder, parts)
    assert read_pairs(parts).fingerprint == pairs.fingerprint
    assert (parts / "images/00000-00.png").stat().st_mtime_ns == before
    scores = [json.loads(line) for line in (whole / "scores.jsonl").read_text().splitlines()]
    assert {p["better"] for p in map(json.loads, (whole / "manifest.jsonl").read_text().splitlines()) if not p["tie"]} <= {
        name for record in scores for name in record["images"]
    }
    with pytest.raises(ValueError, match="made with another seed; collect into another folder"):
        collect(tiny_folder, parts, seed=1)


def test_a_reward_that_scores_nothing_stops_the_collection_with_its_reason(tiny_folder, tmp_path, monkeypatch):
    rewards = ModuleType("tests_of_rewards")
    rewards.nothing = lambda images, prompts: [float("nan")] * len(prompts)
    rewards.foxes = lambda images, prompts: [float(image.mean()) if "fox" in text else float("nan") for image, text in zip(images, prompts)]
    monkeypatch.setitem(sys.modules, rewards.__name__, rewards)
    out, options = tmp_path / "out", {"images": 2, "levels": 2, "device": "cpu"}
    with pytest.raises(ValueError, match="none of 4 images has a score: reward 'tests_of_rewards:nothing' returned nan"):
        run(str(tiny_folder), "tests_of_rewards:nothing", ["a fox", "a hen"], out, **options)
    assert not (out / "scores.jsonl").exists()
    run(str(tiny_folder), "tests_of_rewards:foxes", ["a hen", "a fox"], tmp_path / "foxes", **options)
    assert [record["prompt"] for record in scores_of(tmp_path / "foxes")] == ["a fox"]  # the other is tried again
    assert read_pairs(tmp_path / "foxes").prompts == ("a fox",)


def test_broken_records_are_named(tiny_folder, tmp_path):
    (tmp_path / "collect.json").write_text("{")
    for use in (lambda: collect(tiny_folder, tmp_path), lambda: scored(tmp_path)):
        with pytest.raises(ValueError, match=f"collect.json of {tmp_path} cannot be read: "):
            use()
    (tmp_path / "collect.json").unlink()
    (tmp_path / "scores.jsonl").write_text('{"prompt": "a fox", "images": [], "scores": []}\n{"prompt"\n')
    with pytest.raises(ValueError, match="line 2 of .*scores.jsonl holds no prompt with images and scores; collect into another"):
        collect(tiny_folder, tmp_path)


def test_a_generator_without_prompts_or_reward_of_its_own(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="no prompts of its own"):
        run(str(tiny_folder), "jpeg", None, tmp_path / "out")
    with pytest.raises(ValueError, match="has no reward of its own"):
        run(str(tiny_folder), None, ["a fox"], tmp_path / "out")
    with pytest.raises(ValueError, match="only the model of scenes has renders"):
        run(str(tiny_folder), "jpeg", ["a fox"], tmp_path / "out", renders=3)
    with pytest.raises(ValueError, match="two images of a prompt"):
        run(str(tiny_folder), "jpeg", ["a fox"], tmp_path / "out", images=1)


def test_the_verifier_labels_nothing():
    import ast
    from pathlib import Path

    import mcts_ray.reward.lrm as package

    for file in Path(package.__file__).parent.glob("*.py"):
        imported = [ast.unparse(node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("verify" in line for line in imported), file


@pytest.mark.parametrize("name", ["manifest.jsonl", "deep/pairs.parquet"])
def test_pairs_of_the_users_own_are_not_written_over(tiny_folder, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds pairs that were not made by --collect; collect into another folder"):
        collect(tiny_folder, tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_sample_that_fails_has_no_score_and_stops_nothing(tiny_folder, tmp_path, monkeypatch):
    from mcts_ray.diffusion import engine

    step, failing = engine.Engine.step, {"a fox"}

    def fail(self):
        nothing = {"latent": None, "error": "its latent is not finite"}
        return [replace(walked, **nothing) if walked.work.setting.prompt in failing else walked for walked in step(self)]

    monkeypatch.setattr(engine.Engine, "step", fail)
    out = collect(tiny_folder, tmp_path)
    assert [record["prompt"] for record in scores_of(out)] == ["a hen"]
    failing.add("a hen")
    with pytest.raises(ValueError, match="all 3 samples failed; the last one: its latent is not finite"):
        collect(tiny_folder, tmp_path / "all", prompts=["a hen"])


def test_a_line_ends_at_its_end_alone(tiny_folder, tmp_path):
    """A prompt may hold what str.splitlines takes for the end of a line."""
    out = collect(tiny_folder, tmp_path, prompts=["a fox\u2028and a hen", "a hen"])
    assert len(read_pairs(out)) == 6 and [record["prompt"] for record in scores_of(out)] == ["a fox\u2028and a hen", "a hen"]
