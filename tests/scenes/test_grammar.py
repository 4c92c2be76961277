import pytest

from mcts_ray.scenes import COLOURS, RELATIONS, SHAPES, PromptError, parse


@pytest.mark.parametrize(
    "prompt",
    [
        "a red circle",
        "a red circle and a blue square",
        "a red circle left of a blue square",
        "a white ring above a cyan cross right of an orange diamond",
    ],
)
def test_caption_of_a_parsed_prompt_is_the_prompt(prompt):
    assert parse(prompt).caption == prompt.replace(" an ", " a ")


def test_parse_names_objects_and_relations():
    scene = parse("a red circle below a blue square")
    assert [(o.colour, o.shape) for o in scene.objects] == [("red", "circle"), ("blue", "square")]
    assert scene.relations == ("below",)
    assert not scene.placed


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        ("", "empty"),
        ("a photo of a cat", "expected a colour"),
        ("a redd circle", "did you mean 'red'"),
        ("a red sqare", "did you mean 'square'"),
        ("a ring", "expected a colour but found 'ring' .use one of"),
        ("a red circle near a blue square", "expected a relation"),
        ("a red circle left a blue square", "left of"),
        ("a red circle and a blue square above a green ring", "'and' joins two objects"),
        ("a red circle above a blue square above a green ring above a red ring", "at most 3 objects"),
        ("a red circle left of", "found the end"),
        ("red circle", "expected 'a'"),
    ],
)
def test_a_prompt_outside_the_grammar_is_refused_with_a_hint(prompt, hint):
    with pytest.raises(PromptError, match=hint.replace("'", ".")) as error:
        parse(prompt)
    assert str(error.value).count("; write 'a red circle'") == 1 and ". " not in str(error.value)


def test_vocabulary_is_the_contract():
    assert COLOURS == ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
    assert SHAPES == ("circle", "square", "triangle", "ring", "cross", "diamond")
    assert RELATIONS == ("left of", "right of", "above", "below")
