import numpy as np
import pytest

from mcts_ray.reward import parse_reward, resolve_reward

IMAGES = np.zeros((2, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def red(images, prompts):\n    return images[..., 0].mean((1, 2))\nlevel = 3\n")
    (tmp_path / "my_broken.py").write_text("def red(:\n")
    monkeypatch.chdir(tmp_path)


def test_terms():
    assert [(t.name, t.weight) for t in parse_reward("scenes")] == [("scenes", None)]
    assert [(t.name, t.weight) for t in parse_reward("scenes:1, jpeg:-0.5")] == [("scenes", 1.0), ("jpeg", -0.5)]


def test_a_function_of_the_working_directory(module):
    assert parse_reward("my_rewards:red")[0].weight is None
    assert parse_reward("my_rewards:red:0.5,jpeg:1")[0].weight == 0.5
    assert [s.score for s in resolve_reward("my_rewards:red").score(IMAGES, ["a", "b"])] == [0.0, 0.0]


def test_a_single_name_is_the_reward_itself_and_a_weight_makes_a_sum():
    raw = resolve_reward("jpeg").score(IMAGES, ["", ""])[0].score
    standard = resolve_reward("jpeg:2").score(IMAGES, ["", ""])[0].score
    assert standard == pytest.approx(2 * (raw + 3.95) / 0.84)
    assert resolve_reward("jpeg:2").name == "jpeg:2"


def test_any_callable():
    def likes_all(images, prompts):
        return [1.0] * len(prompts)

    reward = resolve_reward(likes_all)
    assert reward.name == "likes_all" and reward.forwards == 0
    assert reward.score(IMAGES, ["a", "b"])[0].score == 1.0


@pytest.mark.parametrize(
    "spec, message",
    [
        ("scens", "unknown reward 'scens': choose aesthetic, clipscore, hps, jpeg, pickscore, scenes"),
        ("", "unknown reward ''"),
        ("scenes,jpeg:1", "each term of a sum needs a weight"),
        ("scenes:1,jpg:1", "unknown reward 'jpg'"),
        ("jpeg:nan", "weight must be a finite number"),
        ("no_such_module:f", "cannot be imported"),
        ("my_broken:red", "cannot be imported"),
        ("my_rewards:blue", "has no function 'blue'"),
        ("my_rewards:level", "has no function 'level'"),
    ],
)
def test_mistakes_are_one_sentence(module, spec, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_reward(spec)
    assert "\n" not in str(error.value)
