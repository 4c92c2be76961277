"""Several step scores at once: every pass walks the same noises, so which one brings guide and gold with it changes nothing."""

import numpy as np
import pytest

from mcts_ray.audit.collect import Collector
from mcts_ray.audit.design import Design, Step
from mcts_ray.audit.summary import summarise
from mcts_ray.reward import resolve_reward
from mcts_ray.searcher import Searcher
from tests import scorers
from tests.tiny import tiny_pipeline

TEXTS = ("a photo of a bench", "a red clock")


def dark(images, prompts):
    return -images.mean((1, 2, 3))


@pytest.fixture
def collect(monkeypatch, tmp_path):
    scorers.use(monkeypatch)
    steps = {"x0": Step("x0"), "value": Step("value", scorers.folder(tmp_path, "eps"))}
    steps["lrm"] = Step("lrm", scorers.folder(tmp_path, "moody"))
    searcher = Searcher(tiny_pipeline())
    size = {"levels": 5, "trajectories": 4, "scored": (5, 3, 1), "parents": (3,), "children": 3, "completions": 2}
    size |= {"pool": (1, 4), "paths": (2, 1), "path_levels": 3, "settings": {"guidance": 2.0}}

    def run(*names):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        design = Design("pipeline", "jpeg", "dark", tuple(steps[name] for name in names), "here", TEXTS, **size)
        return design, Collector(design, searcher, resolve_reward(dark), folder).collect()

    return run


def test_passes_agree_whatever_their_order(collect):
    (design, one), (_, other) = collect("x0", "value"), collect("value", "x0")
    assert one.trajectories["guide"].shape == (2, 4) and one.siblings["gold"].shape == (2, 1, 3, 2) and one.pool["gold"].shape == (1, 4)
    for name in ("guide", "gold"):  # trajectories share other batches where scores are taken on the way, which on some CPUs flips a pixel
        assert np.allclose(one.trajectories[name], other.trajectories[name], atol=0.02)
        assert np.allclose(one.siblings[name], other.siblings[name])
    for name in ("x0", "value"):
        assert one.scores[name].shape == (2, 4, 3) and one.sibling_scores[name].shape == (2, 1, 3)
        assert np.allclose(one.scores[name], other.scores[name], atol=1e-4)
        assert np.allclose(one.sibling_scores[name], other.sibling_scores[name], atol=1e-4)
        assert np.allclose(one.paths[name]["score"], other.paths[name]["score"], atol=1e-4)
    assert not np.allclose(one.scores["x0"], one.scores["value"])
    assert len(one.log_snr) == 6 and len(one.path_log_snr) == 4
    found, calibrations = summarise(design, one)
    assert list(found["scores"]) == ["x0", "value"] == list(calibrations)
    assert "over_first" in found["scores"]["value"]["levels"][0] and "over_first" not in found["levels"][0]


def test_a_step_score_that_is_not_finite_is_refused(collect):
    with pytest.raises(ValueError, match="the step score of 'a .*' at level 5 is not a finite number"):
        collect("lrm")
