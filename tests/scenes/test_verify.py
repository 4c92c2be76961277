"""The verifier on renders. Its full limits (2,000 scenes, every kind of false fact) are `benchmarks.verifier`'s."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mcts_ray.scenes import COLOURS, RELATIONS, SHAPES, Object, Scene, parse, prompts, render, verify, verify_batch
from mcts_ray.scenes.detect import detect
from mcts_ray.scenes.train.data import captions_of, random_scenes
from mcts_ray.scenes.render import render_arrays


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_all_facts_hold_in_rendered_scenes(blur):
    scenes = random_scenes(300, np.random.default_rng(1))
    images = render_arrays(scenes)
    images = ndimage.gaussian_filter(images, (0, blur, blur, 0)) if blur else images
    verdicts = verify_batch(images, captions_of(scenes))
    assert np.mean([passed for _, passed, _ in verdicts]) >= 0.99


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_is_recognised_and_only_as_itself(colour, shape):
    image = render(Scene((Object(colour, shape, 0.5, 0.45, 0.17),)))
    for c in COLOURS:
        score, passed, facts = verify(image, f"a {c} {shape}")
        assert passed == (c == colour) and facts["nothing else"]
    for s in SHAPES:
        assert verify(image, f"a {colour} {s}")[1] == (s == shape)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_excludes_the_others(relation):
    image = render(parse(f"a red circle {relation} a blue square"))
    for other in RELATIONS:
        score, passed, facts = verify(image, f"a red circle {other} a blue square")
        assert passed == (other == relation)
        assert score == (1 if passed else 5 / 6)


def test_score_is_the_share_of_facts():
    image = render(parse("a red circle left of a blue square above a green ring"))
    assert verify(image, "a red circle left of a blue square above a green ring")[0] == 1
    score, passed, facts = verify(image, "a red circle left of a blue square above a green cross")
    assert (score, passed) == (8 / 9, False)
    assert [name for name, holds in facts.items() if not holds] == ["object 3 is a cross"]


def test_extra_and_missing_objects_are_seen():
    two = render(parse("a red circle left of a blue square"))
    score, passed, facts = verify(two, "a red circle")
    assert not passed and not facts["nothing else"] and score == 2 / 3
    one = render(parse("a red circle"))
    score, passed, facts = verify(one, "a red circle left of a blue square")
    assert not passed and facts["nothing else"] and score == 3 / 6


def test_a_blank_and_a_noisy_image_hold_nothing():
    blank = np.full((64, 64, 3), 30, np.uint8)
    assert verify(blank, "a red circle")[0] == 1 / 3  # only that nothing else is there
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert not verify(noise, "a red circle")[1]


def test_a_shape_between_two_is_neither():
    """Half a square, half a diamond: an octagon-like blob that must not pass for either."""
    blob = np.maximum(*(render(Scene((Object("red", s, 0.5, 0.5, 0.2),))).astype(int) for s in ("square", "cross")))
    (found,) = detect(blob.astype(np.uint8)[None])[0]
    clean = detect(render(Scene((Object("red", "square", 0.5, 0.5, 0.2),)))[None])[0][0]
    assert found.colour == "red" and found.certainty < 0.8 * clean.certainty
    assert not verify(blob.astype(np.uint8), "a red cross")[1] and not verify(blob.astype(np.uint8), "a red diamond")[1]


def test_images_may_be_pil_uint8_or_float():
    image = render(parse("a cyan triangle"))
    for form in (image, Image.fromarray(image), image / 255.0, image.astype(np.float32) / 255):
        assert verify(form, "a cyan triangle")[1]


def test_wrong_input_is_refused():
    image = render(parse("a cyan triangle"))
    with pytest.raises(ValueError, match="grammar"):
        verify(image, "a cat")
    with pytest.raises(ValueError, match="2 images but 1 prompts"):
        verify_batch([image, image], ["a cyan triangle"])
    with pytest.raises(ValueError, match="H, W, 3"):
        verify(image[..., 0], "a cyan triangle")


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_rendered_prompts_pass(name):
    texts = prompts(name, "test")[:24]
    verdicts = verify_batch(render([parse(t) for t in texts]), texts)
    assert all(passed for _, passed, _ in verdicts)


def test_render_is_seeded_and_keeps_given_places():
    scene = parse("a red circle left of a blue square")
    assert (render(scene, seed=3) == render(scene, seed=3)).all()
    assert (render(scene, seed=3) != render(scene, seed=4)).any()
    placed = Scene((replace(scene.objects[0], x=0.25, y=0.75, radius=0.15),))
    found = detect(render(placed)[None])[0][0]
    assert abs(found.x - 0.25) < 0.01 and abs(found.y - 0.75) < 0.01
