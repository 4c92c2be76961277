import numpy as np

from mcts_ray.scenes import verify_batch
from mcts_ray.scenes.render import render_arrays
from mcts_ray.scenes.train.corrupt import corrupt
from mcts_ray.scenes.train.data import captions_of, random_scenes


def test_constructed_share_of_facts_is_what_the_verifier_reads():
    """Labels come from the edit alone; the verifier, which reads pixels, must nearly always agree. It may find a better
    matching of names to objects, or an extra object that touches another one: allow 5 % of 400 scenes."""
    rng = np.random.default_rng(0)
    caption = random_scenes(400, rng)
    scene, facts = corrupt(caption, rng)
    share = facts.share_N
    read = np.array([v[0] for v in verify_batch(render_arrays(scene), captions_of(caption))])
    assert np.mean(np.abs(read - share) < 1e-3) >= 0.95
    assert 0.2 < np.mean(share == 1) < 0.45
