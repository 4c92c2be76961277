"""Rendered pairs are labelled by the reward, and mostly agree with the facts that were made wrong."""

from importlib import import_module

import numpy as np

from mcts_ray.reward.lrm.collect import run
from mcts_ray.reward.lrm.pairs import read_pairs
from mcts_ray.reward.lrm.renders import Renderer, captions
from mcts_ray.scenes import parse, prompts


def test_captions_are_those_that_training_may_see():
    found = captions(50, 0)
    assert found == captions(50, 0) != captions(50, 1)
    assert all(parse(text).caption == text for text in found)
    assert not set(found) & {text for name in ("medium", "hard") for split in ("validation", "test") for text in prompts(name, split)}


def test_images_differ_and_so_do_their_scores():
    texts = captions(6, 0)
    images, scores = Renderer("scenes", "cpu")(texts, 4, 0)
    assert images.shape == (6, 4, 64, 64, 3) and images.dtype == np.uint8 and np.isfinite(scores).all()
    assert (scores.std(1) > 0.01).mean() > 0.5
    again, _ = Renderer("scenes", "cpu")(texts, 4, 0)
    assert np.array_equal(images, again)


def test_renders_join_the_pairs_without_the_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("mcts_ray.scenes.prompts"), "training_prompts", lambda: ["a red circle"])
    (tmp_path / "scores.jsonl").write_text('{"prompt": "a red circle", "images": ["one.png"], "scores": [1.0]}\n')  # sampled already
    lines = []
    run("scenes", None, None, tmp_path, images=2, renders=3, report=lines.append)
    pairs = read_pairs(tmp_path)
    assert pairs.prompts == tuple(captions(3, 0)) and len(pairs) == 3
    assert lines[0] == "3 of 3 captions rendered" and lines[-1].startswith("3 pairs of 4 prompts")
