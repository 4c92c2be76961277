import numpy as np
import pytest

from mcts_ray.reward import (
    find_weights,
    parse_reward,
    resolve,
    resolve_reward,
    with_absolute_folders,
)
from mcts_ray.reward.resolve import weight_files

IMAGES = np.zeros((2, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def red(images, prompts):\n    return images[..., 0].mean((1, 2))\nlevel = 3\n")
    (tmp_path / "my_broken.py").write_text("def red(:\n")
    monkeypatch.chdir(tmp_path)


def test_terms():
    assert [(t.name, t.weight) for t in parse_reward("scenes")] == [("scenes", None)]
    assert [(t.name, t.weight) for t in parse_reward("scenes:1, jpeg:-0.5")] == [("scenes", 1.0), ("jpeg", -0.5)]


def test_sources():
    text = "pickscore@./my-pick:1, aesthetic@me/head:0.3,jpeg:-1"
    assert [(t.name, t.weight, t.source) for t in parse_reward(text)] == [
        ("pickscore", 1.0, "./my-pick"),
        ("aesthetic", 0.3, "me/head"),
        ("jpeg", -1.0, None),
    ]
    assert [(t.source, t.weight) for t in parse_reward(r"clipscore@C:\clip:2")] == [(r"C:\clip", 2.0)]
    assert [(t.source, t.weight) for t in parse_reward(r"clipscore@C:\clip")] == [(r"C:\clip", None)]


def test_folders_for_a_process_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    found = with_absolute_folders("pickscore@mine:1,aesthetic@me/head:0.3,jpeg:-1")
    assert found == f"pickscore@{tmp_path}/mine:1.0,aesthetic@me/head:0.3,jpeg:-1.0"
    assert with_absolute_folders("pickscore@mine") == f"pickscore@{tmp_path}/mine"
    assert with_absolute_folders(len) is len


def test_what_stands_for_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert weight_files(f"pickscore@{tmp_path}:1,jpeg:1") == [tmp_path / "model.safetensors"]
    assert [file.suffix for file in weight_files("scenes")] == [".safetensors"]
    assert weight_files("jpeg") == []


def test_a_sum_of_networks_is_standardised(clip_folder, images, prompts):
    one, other = (resolve_reward(f"{name}@{clip_folder}") for name in ("pickscore", "clipscore"))
    total = resolve_reward(f"pickscore@{clip_folder}:1,clipscore@{clip_folder}:0.5")
    first, second = (np.array([s.score for s in r.score(images, prompts)]) for r in (one, other))
    expected = (first - 21.1) / 1.4 + 0.5 * (second - 0.65) / 0.08
    np.testing.assert_allclose([s.score for s in total.score(images, prompts)], expected, rtol=1e-5)
    assert total.forwards == 2


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(resolve, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^reward 'hps' needs open_clip; install it with pip install 'mcts-ray\[hps\]'$"):
        parse_reward("jpeg:1,hps:1")
    monkeypatch.setattr(resolve, "find_spec", lambda name: name)
    assert parse_reward("hps")[0].name == "hps"


def test_weights_are_looked_for_in_every_term(clip_folder, tmp_path):
    find_weights(f"jpeg:1,pickscore@{clip_folder}:1")
    find_weights(len)
    with pytest.raises(ValueError, match="reward 'aesthetic': there is no folder ./none"):
        find_weights(f"pickscore@{clip_folder}:1,aesthetic@./none:1")


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
        ("jpeg@here", "reward 'jpeg' takes no weights from elsewhere; leave '@here' out"),
        ("pickscore@:1", "name a folder or a hub id after the @"),
        ("pick@here", "unknown reward 'pick@here'"),
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
