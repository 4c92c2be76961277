import numpy as np

from mcts_ray.reward import clipscore
from mcts_ray.reward.clipscore import ClipScore
from tests.reward.test_clip import direct
from tests.tiny_clip import save_clip


def test_score_is_the_papers(tmp_path, images, prompts):
    """2.5 max(cos, 0), Hessel et al., section 3, of a CLIP (seed 4) that has cosines of both signs here."""
    cosines, _ = direct(save_clip(tmp_path, seed=4), images, prompts)
    assert cosines.min() < -0.1 and cosines.max() > 0.1
    reward = ClipScore.load("cpu", str(tmp_path))
    np.testing.assert_allclose(reward(images, prompts), 2.5 * np.maximum(cosines, 0), atol=1e-5)
    assert reward(images[:0], []).shape == (0,) and reward.forwards == 1


def test_the_published_weights_bring_their_own_processor(clip_folder, monkeypatch):
    monkeypatch.setattr(clipscore, "MODEL", str(clip_folder))
    assert clipscore.find().model == clipscore.find().processor == str(clip_folder)
