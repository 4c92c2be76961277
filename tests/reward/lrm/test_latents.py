import numpy as np
import pytest
import torch

from mcts_ray.reward.lrm.latents import encode, encoded
from mcts_ray.reward.lrm.pairs import read_pairs
from tests.reward.lrm.pictures import png, write_folder
from tests.tiny import tiny_pipeline

ROWS = [("a fox", png(0), png(1), 1.0), ("a hen", png(1), png(2, 40, 80), 1.0)]


@pytest.fixture(scope="module")
def vae():
    return tiny_pipeline().vae.eval()


@torch.no_grad()
def test_latents_are_the_scaled_mode_and_are_made_once(vae, tmp_path, monkeypatch):
    pairs = read_pairs(write_folder(tmp_path / "pairs", ROWS))
    seen = []
    latents = encoded(pairs, vae, (32, 32), tmp_path / "out", seen.append)
    assert latents.shape == (3, 4, 8, 8) and latents.dtype == np.float16 and seen == [3]
    from io import BytesIO

    from PIL import Image

    pixels = np.asarray(Image.open(BytesIO(png(1))).convert("RGB"), np.float32) / 127.5 - 1
    expected = vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist.mode() * vae.config.scaling_factor
    np.testing.assert_allclose(latents[1], expected[0].numpy(), atol=2e-3)
    monkeypatch.setattr(type(vae), "encode", lambda *_: pytest.fail("encoded again"))
    assert np.array_equal(encoded(pairs, vae, (32, 32), tmp_path / "out"), latents)


def test_encoding_that_was_cut_off_goes_on(vae, tmp_path, monkeypatch):
    from mcts_ray.reward.lrm import latents

    monkeypatch.setattr(latents, "PIXELS", 1)  # an image a call
    monkeypatch.setattr(latents, "KEPT", 1)
    pairs = read_pairs(write_folder(tmp_path / "pairs", ROWS))
    whole, made = np.array(encoded(pairs, vae, (32, 32), tmp_path / "whole")), []

    def cut(count):
        made.append(count)
        if made == [1, 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoded(pairs, vae, (32, 32), tmp_path / "out", cut)
    assert np.array_equal(encoded(pairs, vae, (32, 32), tmp_path / "out", cut), whole) and made == [1, 2, 3]
    assert [file.suffix for file in (tmp_path / "out").iterdir()] == [".npy"]


@torch.no_grad()
def test_latents_have_the_mean_and_the_spread_of_the_autoencoder():
    vae = tiny_pipeline().vae.eval()
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5, -0.5, 0.25, 0.0]), torch.tensor([2.0, 1.0, 0.5, 3.0])
    plain = encode(vae, images)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    centre = mean.view(1, 4, 1, 1) * vae.config.scaling_factor
    torch.testing.assert_close(encode(vae, images), (plain - centre) / std.view(1, 4, 1, 1))


def test_images_of_other_sizes_are_scaled_and_cut(vae, tmp_path):
    pairs = read_pairs(write_folder(tmp_path / "pairs", ROWS))
    latents = encoded(pairs, vae, (16, 32), tmp_path / "out")
    assert latents.shape == (3, 4, 4, 8)


def test_an_image_that_is_cut_off_is_named_by_its_row(vae, tmp_path):
    folder = write_folder(tmp_path / "pairs", ROWS)
    file = folder / "1-worse.png"
    file.write_bytes(file.read_bytes()[:200])
    pairs = read_pairs(folder)  # the header is an image's
    with pytest.raises(ValueError, match="line 2 of .* has an image that cannot be read"):
        encoded(pairs, vae, (32, 32), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.npy"))
