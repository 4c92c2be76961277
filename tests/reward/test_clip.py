"""The shared encoder, on a tiny CLIP that is saved and loaded as the published ones are."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from mcts_ray.reward import clip as module
from mcts_ray.reward.clip import load_clip, load_tensors
from mcts_ray.reward.weights import find_clip
from tests.tiny_clip import save_clip


@pytest.fixture(scope="module")
def towers(clip_folder):
    return load_clip("r", find_clip("r", str(clip_folder)), "cpu")


def direct(folder, images, prompts):
    """Cosines by transformers' own processor and forward, one pair at a time."""
    model, processor = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), CLIPProcessor.from_pretrained(folder)
    cosines = []
    for image, prompt in zip(images, prompts, strict=True):
        inputs = processor(text=[prompt], images=[Image.fromarray(image)], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            cosines.append((model(**inputs).logits_per_image / model.logit_scale.exp()).item())
    return np.array(cosines), model.logit_scale.exp().item()


def test_cosines_are_those_of_transformers(towers, clip_folder, images, prompts):
    cosines, scale = direct(clip_folder, images, prompts)
    np.testing.assert_allclose(towers.cosine(images, prompts), cosines, atol=1e-6)
    assert towers.logit_scale == pytest.approx(scale)
    assert np.ptp(cosines) > 0.01  # else the comparison would hold for any order


def test_order_and_batches_do_not_matter(towers, images, prompts, monkeypatch):
    whole = towers.cosine(images, prompts)
    np.testing.assert_allclose(towers.cosine(images[::-1], prompts[::-1])[::-1], whole, atol=1e-6)
    alone = [towers.cosine(images[i : i + 1], prompts[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(alone, whole, atol=1e-6)
    monkeypatch.setattr(module, "BATCH", 3)
    np.testing.assert_allclose(towers.cosine(images, prompts), whole, atol=1e-6)


def test_prompts_are_cut_as_clip_cuts_them(towers, images):
    """At 16 tokens, the last of which is the end: 14 letters count, and what follows them does not."""
    long, longer, other = "abcdefghijklmn" + "opq", "abcdefghijklmn" + "xyz" * 50, "abcdefghijklmx"
    scores = [towers.cosine(images[:1], [prompt])[0] for prompt in (long, longer, other)]
    assert scores[0] == scores[1] != scores[2]


def test_an_empty_batch(towers, images):
    assert towers.cosine(images[:0], []).shape == (0,)


def test_prompts_are_encoded_once_and_forgotten_in_time(clip_folder, images, prompts, monkeypatch):
    towers = load_clip("r", find_clip("r", str(clip_folder)), "cpu")
    encoded, texts = [], towers._texts
    towers._texts = lambda prompts: encoded.extend(prompts) or texts(prompts)
    first = towers.cosine(images, prompts)
    assert encoded == [prompts[0], prompts[1], prompts[3]]
    np.testing.assert_array_equal(towers.cosine(images, prompts), first)
    assert len(encoded) == 3
    monkeypatch.setattr(module, "PROMPTS", 3)
    towers.cosine(images[:1], ["a cross"])
    np.testing.assert_array_equal(towers.cosine(images, prompts), first)
    assert len(towers._known) <= 4


def test_wrong_batches(towers, images):
    with pytest.raises(ValueError, match="there are 4 images but 1 prompts"):
        towers.cosine(images, ["a ring"])
    with pytest.raises(ValueError, match=r"must be uint8 \(N, H, W, 3\), not float32"):
        towers.cosine(images[:1].astype(np.float32), ["a ring"])


def test_weights_that_are_not_all_there(clip_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in state.items() if "projection" not in name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="cannot be loaded: the weights lack text_projection.weight and 1 more$"):
        load_clip("r", find_clip("r", str(folder)), "cpu")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be loaded: .*header"):
        load_clip("r", find_clip("r", str(folder)), "cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"reward 'r': .* cannot be loaded: .*model\.safetensors") as error:
        load_clip("r", find_clip("r", str(folder)), "cpu")
    assert "\n" not in str(error.value)


def test_an_image_processor_of_another_model(tmp_path):
    folder = save_clip(tmp_path, side=24)
    with pytest.raises(ValueError, match="makes images of 24x24, and .* reads 32x32"):
        load_clip("r", find_clip("r", str(folder)), "cpu")


def test_a_file_of_more_than_tensors_is_not_opened(tmp_path):
    class Stray:
        def __reduce__(self):
            return json.dumps, ("run",)

    torch.save({"state_dict": Stray()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt cannot be loaded: it is no file of tensors alone, and others are not opened"):
        load_tensors("r", tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"y\.pt cannot be loaded") as error:
        load_tensors("r", tmp_path / "y.pt")
    assert "\n" not in str(error.value)
