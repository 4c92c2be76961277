import numpy as np

from mcts_ray.scenes import verify_batch
from mcts_ray.scenes.render import render_arrays
from mcts_ray.scenes.train.corrupt import corrupt, twin
from mcts_ray.scenes.train.data import captions_of, random_scenes
from mcts_ray.scenes.train.facts import facts_of


def test_facts_known_from_the_scene_are_what_the_verifier_reads_from_its_pixels():
    rng = np.random.default_rng(0)
    caption = random_scenes(400, rng)
    scene = corrupt(caption, rng)
    facts = facts_of(caption, scene)
    verdicts = verify_batch(render_arrays(scene), captions_of(caption))
    read, share = np.array([v[0] for v in verdicts]), facts.share_N
    assert np.mean(np.abs(read - share) < 1e-3) >= 0.98  # an added object may touch another one
    assert 0.2 < np.mean(share == 1) < 0.45
    for kind in ("colour", "shape", "relation"):
        held, stated = getattr(facts, f"{kind}_NO" if kind != "relation" else "relation_NR"), facts.exists_NO
        assert 0.5 < held.sum() / (facts.related_NR if kind == "relation" else stated).sum() < 0.95


def test_a_scene_that_is_what_its_caption_says_has_all_facts():
    caption = random_scenes(300, np.random.default_rng(1))
    facts = facts_of(caption, caption)
    assert (facts.share_N == 1).all()
    there = facts.exists_NO
    assert np.abs(np.where(there, facts.x_NO - caption.x_NO, 0)).max() < 1  # a place in the picture
    assert (facts.colour_NO == there).all() and (facts.shape_NO == there).all()


def test_names_are_matched_to_objects_as_it_serves_the_caption_best():
    """Shown in another order of the arrays, the same picture has the same facts."""
    caption = random_scenes(200, np.random.default_rng(2))
    scene = corrupt(caption, np.random.default_rng(3))
    order = [3, 1, 0, 2]
    names = ("colour_NO", "shape_NO", "x_NO", "y_NO", "radius_NO")
    turned = type(scene)(*(getattr(scene, name)[:, order] for name in names), scene.relation_NR)
    assert (facts_of(caption, turned).share_N == facts_of(caption, scene).share_N).all()


def test_a_twin_differs_in_one_attribute_of_one_object():
    scene = random_scenes(200, np.random.default_rng(4))
    other, which = twin(scene, np.random.default_rng(5))
    changed = (other.colour_NO != scene.colour_NO).astype(int) + (other.shape_NO != scene.shape_NO)
    assert (changed.sum(1) == 1).all()
    assert (changed.argmax(1) == which).all()
