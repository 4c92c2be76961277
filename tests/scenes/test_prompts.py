import numpy as np
import pytest

from mcts_ray.scenes import COLOURS, RELATIONS, SHAPES, parse, prompts
from mcts_ray.scenes.prompts import captions, held_out
from mcts_ray.scenes.train.data import random_scenes


def combinations(caption):
    scene = parse(caption)
    return [(o.colour, o.shape, r) for o, r in zip(scene.objects, scene.relations)]


def novel(caption):
    table = held_out()
    index = lambda c, s, r: table[COLOURS.index(c), SHAPES.index(s), RELATIONS.index(r)]  # noqa: E731
    return any(index(*combination) for combination in combinations(caption))


@pytest.mark.parametrize("name", ["medium", "hard"])
def test_sets_are_large_distinct_disjoint_and_half_novel(name):
    split = {s: prompts(name, s) for s in ("train", "validation", "test")}
    for texts in split.values():
        assert len(set(texts)) == len(texts) >= 200
    assert not set(split["train"]) & set(split["validation"])
    assert not set(split["validation"]) & set(split["test"])
    for s in ("validation", "test"):
        assert np.mean([novel(t) for t in split[s]]) == 0.5
    assert not any(novel(t) for t in split["train"])


def test_objects_of_each_difficulty():
    assert all(len(parse(t).objects) == 1 for t in prompts("easy", "test"))
    assert all(len(parse(t).objects) == 2 and parse(t).relations for t in prompts("medium", "test"))
    for text in prompts("hard", "test"):
        objects = parse(text).objects
        assert len(objects) == 3 == len(set(objects))
        for o in objects:
            assert any(o is not p and (o.colour == p.colour or o.shape == p.shape) for p in objects)


def test_sets_never_change():
    """Golden, from the first release: a changed set would make every committed figure incomparable."""
    assert prompts("hard", "test")[:2] == [
        "a cyan ring above a green ring right of a green square",
        "a blue square above a red cross right of a blue cross",
    ]
    assert prompts("medium", "validation")[0] == "a purple diamond above a cyan cross"


def test_training_scenes_show_neither_evaluation_prompts_nor_held_out_combinations():
    scenes = random_scenes(3000, np.random.default_rng(0))
    texts = captions(scenes.colour_NO, scenes.shape_NO, scenes.relation_NR)
    asked = {t for name in ("medium", "hard") for s in ("validation", "test") for t in prompts(name, s)}
    assert not asked & set(texts)
    assert not any(novel(t) for t in texts)


@pytest.mark.parametrize(("name", "split"), [("impossible", "test"), ("easy", "dev")])
def test_unknown_set_or_split(name, split):
    with pytest.raises(ValueError, match="use one of"):
        prompts(name, split)
