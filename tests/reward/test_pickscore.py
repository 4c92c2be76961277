import numpy as np
import pytest

from mcts_ray.reward import pickscore, resolve_reward
from mcts_ray.reward.pickscore import PickScore, find
from tests.reward.test_clip import direct
from tests.tiny_clip import save_clip, save_processor


def test_score(clip_folder, images, prompts):
    cosines, scale = direct(clip_folder, images, prompts)
    reward = PickScore.load("cpu", str(clip_folder))
    np.testing.assert_allclose(reward(images, prompts), scale * cosines, rtol=1e-5)
    assert reward(images[:0], []).shape == (0,) and reward.forwards == 1


def test_by_name(clip_folder, images, prompts):
    reward = resolve_reward(f"pickscore@{clip_folder}")
    scored = reward.score(images, prompts)
    assert reward.forwards == 1
    np.testing.assert_allclose([one.score for one in scored], PickScore.load("cpu", str(clip_folder))(images, prompts), rtol=1e-6)


def test_weights_without_an_image_processor_get_the_published_one(tmp_path, monkeypatch):
    bare = save_clip(tmp_path / "bare", processor=False)
    published = tmp_path / "published"
    save_processor(published)
    monkeypatch.setattr(pickscore, "PROCESSOR", str(published))
    assert find(str(bare)).model == str(bare) and find(str(bare)).processor == str(published)
    monkeypatch.setattr(pickscore, "MODEL", str(bare))
    assert find() == find(str(bare))


def test_the_published_ids():
    """As in the model card of PickScore_v1."""
    assert pickscore.MODEL == "yuvalkirstain/PickScore_v1"
    assert pickscore.PROCESSOR == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match="reward 'pickscore': there is no folder ./nowhere, and it is no hub id like owner/name"):
        find("./nowhere")
    with pytest.raises(ValueError, match=f"reward 'pickscore': {tmp_path} has no config.json"):
        find(str(tmp_path))
