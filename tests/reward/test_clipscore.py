import numpy as np

from mcts_ray.reward.clipscore import ClipScore
from tests.reward.test_clip import direct
from tests.reward.tiny_clip import save_clip


def test_score_is_never_below_zero(tmp_path, images, prompts):
    """Eq. of Hessel et al., section 3: 2.5 max(cos, 0); the model is one that has cosines of both signs here."""
    seeds = [(seed, direct(save_clip(tmp_path / str(seed), seed), images, prompts)[0]) for seed in range(1)]
    seed, cosines = seeds[0]
    cosines = np.array(cosines)
    reward = ClipScore.load("cpu", str(tmp_path / str(seed)))
    np.testing.assert_allclose(reward(images, prompts), 2.5 * np.maximum(cosines, 0), atol=1e-5)
    print(cosines)
    assert reward(images[:0], []).shape == (0,)
