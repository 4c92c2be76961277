import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mcts_ray.reward.hps import FILE, Hps, find, on_square

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def open_clip():
    return pytest.importorskip("open_clip", reason="the extra hps is not installed")


@pytest.fixture(scope="module")
def model(open_clip):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**CONFIG).eval()


@pytest.fixture
def folder(model, tmp_path):
    """The published file's layout around a tiny model, whose sizes open_clip's own file tells."""
    torch.save({"state_dict": {**model.state_dict(), "attn_mask": torch.zeros(1)}, "epoch": 1}, tmp_path / FILE)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    return tmp_path


def test_score(open_clip, model, folder, images, prompts):
    square = images[:, :, :40]
    transform = open_clip.transform.image_transform(32, is_train=False, mean=None, std=None)
    pixels = torch.stack([transform(Image.fromarray(image)) for image in square])
    with torch.no_grad():
        features, texts, _ = model(pixels, open_clip.SimpleTokenizer(context_length=12)(prompts))
    reward = Hps.load("cpu", str(folder))
    scores = reward(square, prompts)
    np.testing.assert_allclose(scores, (features * texts).sum(-1).numpy(), atol=2e-3)  # of the two image processors' rounding
    assert np.ptp(scores) > 0.02
    np.testing.assert_allclose([reward(square[i : i + 1], prompts[i : i + 1])[0] for i in range(4)], scores, atol=1e-6)
    assert reward(images[:0], []).shape == (0,) and reward.forwards == 1


def test_long_prompts_are_cut(open_clip, folder, images):
    reward = Hps.load("cpu", str(folder))
    assert reward(images[:1], ["a cat " * 20]) == reward(images[:1], ["a cat " * 30])


def test_weights_of_another_architecture(open_clip, folder):
    state = torch.load(folder / FILE, weights_only=True)["state_dict"]
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "text_projection"}}, folder / FILE)
    with pytest.raises(ValueError, match="lacks text_projection, so it is not for this architecture"):
        Hps.load("cpu", str(folder))
    torch.save(state, folder / FILE)
    with pytest.raises(ValueError, match=r"HPS_v2\.1_compressed\.pt cannot be loaded: 'state_dict'"):
        Hps.load("cpu", str(folder))


def test_an_image_that_is_no_square_stays_whole():
    wide = np.full((2, 3, 6, 3), 7, np.uint8)
    square = on_square(wide)
    assert square.shape == (2, 6, 6, 3)
    assert (square[:, 1:4] == 7).all() and not square[:, [0, 4, 5]].any()
    np.testing.assert_array_equal(on_square(square), square)


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match=f"reward 'hps': {tmp_path} has no HPS_v2.1_compressed.pt"):
        find(str(tmp_path))


def test_an_open_clip_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match="reward 'hps': open_clip cannot be imported .* needs a torchvision that fits torch"):
        Hps.load("cpu", str(tmp_path))
