import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel

from mcts_ray.reward import aesthetic
from mcts_ray.reward.aesthetic import FILES, Aesthetic, find
from tests.tiny_clip import WIDTH, head_state


@pytest.fixture
def folder(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "aesthetic")
    torch.save(head_state(), folder / FILES[0])
    return folder


def published_network(state):
    """The module that the published file is the state of."""
    nn = torch.nn
    layers = [nn.Linear(WIDTH, 10), nn.Dropout(0.2), nn.Linear(10, 8), nn.Dropout(0.2), nn.Linear(8, 6), nn.Dropout(0.1)]
    network = nn.ModuleDict({"layers": nn.Sequential(*layers, nn.Linear(6, 4), nn.Linear(4, 1))}).eval()
    network.load_state_dict(state)
    return network["layers"]


def test_score(folder, images, prompts):
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor(list(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        embedding = model.get_image_features(pixels).pooler_output
        expected = published_network(head_state())(embedding / embedding.norm(dim=-1, keepdim=True))[:, 0].numpy()
    reward = Aesthetic.load("cpu", str(folder))
    np.testing.assert_allclose(reward(images, prompts), expected, rtol=1e-5)
    np.testing.assert_array_equal(reward(images, ["another"] * 4), reward(images, prompts))
    assert np.ptp(expected) > 0.01 and reward.forwards == 1
    assert reward(images[:0], []).shape == (0,)


def test_a_folder_with_the_head_alone_gets_the_published_clip(clip_folder, tmp_path, monkeypatch):
    torch.save(head_state(), tmp_path / FILES[1])
    monkeypatch.setattr(aesthetic, "MODEL", str(clip_folder))
    head, clip = find(str(tmp_path))
    assert head == tmp_path / FILES[1] and clip.model == str(clip_folder)
    monkeypatch.setattr(aesthetic, "HEAD", str(tmp_path))
    assert find() == (head, clip)


@pytest.mark.parametrize(
    "state, message",
    [
        (head_state(width=7), r"linearMSE\.pth reads 7 features, and .* gives 12"),
        ({"weight": torch.zeros(1, 12)}, "does not hold linear layers"),
        ({k: v for k, v in head_state().items() if "7" not in k}, "does not hold linear layers"),
        ({k: v for k, v in head_state().items() if k != "layers.2.bias"}, "does not hold linear layers"),
        ([1.0], "does not hold linear layers"),
    ],
    ids=["width", "keys", "no-number", "no-bias", "list"],
)
def test_wrong_heads(folder, state, message):
    torch.save(state, folder / FILES[0])
    with pytest.raises(ValueError, match=message):
        Aesthetic.load("cpu", str(folder))


def test_no_head(clip_folder):
    with pytest.raises(ValueError, match=r"reward 'aesthetic': .* has no sac\+logos\+ava1-l14-linearMSE\.pth or aesthetic-model\.pth"):
        find(str(clip_folder))
