import numpy as np
import pytest
import torch

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.noise import draw
from tests.diffusion.walks import SHAPE
from tests.tiny import SIZE, tiny_pipeline

LATENTS = draw([f"l{i}" for i in range(7)], SHAPE)


def test_the_stock_pipelines_image(pipe):
    latent = pipe("a ring", num_inference_steps=2, latents=LATENTS[:1], height=SIZE, width=SIZE, output_type="latent").images
    image = pipe("a ring", num_inference_steps=2, latents=LATENTS[:1], height=SIZE, width=SIZE).images[0]
    decoded = Decoder(StableDiffusionAdapter(pipe)).decode(latent)
    assert decoded.shape == (1, SIZE, SIZE, 3) and decoded.dtype == np.uint8
    assert np.array_equal(decoded[0], np.asarray(image))


def test_micro_batches_do_not_change_images(pipe):
    adapter = StableDiffusionAdapter(pipe)
    whole, sliced = Decoder(adapter).decode(LATENTS), Decoder(adapter, batch_size=2).decode(LATENTS)
    assert np.abs(whole.astype(int) - sliced).max() <= 1


def test_default_batch_follows_the_pixel_count(pipe):
    decoder = Decoder(StableDiffusionAdapter(pipe))
    assert decoder._default_batch((4, 8, 8)) == 64 and decoder._default_batch((4, 1024, 1024)) == 1


def test_out_of_memory_halves_the_batch(pipe, monkeypatch):
    adapter = StableDiffusionAdapter(pipe)
    whole = Decoder(adapter).decode(LATENTS)
    sizes, decode = [], adapter.decode

    def small_memory(latent_NCHW):
        sizes.append(len(latent_NCHW))
        if len(latent_NCHW) > 3:
            raise torch.OutOfMemoryError("no")
        return decode(latent_NCHW)

    monkeypatch.setattr(adapter, "decode", small_memory)
    decoder = Decoder(adapter, batch_size=7)
    images = decoder.decode(LATENTS)
    assert sizes == [7, 3, 3, 1] and np.abs(whole.astype(int) - images).max() <= 1
    decoder.decode(LATENTS[:3])
    assert sizes == [7, 3, 3, 1, 3]  # the smaller limit is remembered


def test_shift_factor():
    pipe = tiny_pipeline()
    plain = StableDiffusionAdapter(pipe).decode(LATENTS[:1] + 0.25 * pipe.vae.config.scaling_factor)
    pipe.vae.register_to_config(shift_factor=0.25)
    torch.testing.assert_close(StableDiffusionAdapter(pipe).decode(LATENTS[:1]), plain)


def test_bf16_autoencoder_gives_images():
    pipe = tiny_pipeline().to(dtype=torch.bfloat16)
    assert Decoder(StableDiffusionAdapter(pipe)).decode(LATENTS[:2]).shape == (2, SIZE, SIZE, 3)


@pytest.mark.parametrize("size", [(30, 32), (2, 32), (32, 0)])
def test_sizes_that_do_not_fit_the_autoencoder(pipe, size):
    adapter = StableDiffusionAdapter(pipe)
    assert adapter.latent_shape(32, 48) == (4, 8, 12) and adapter.default_size == (SIZE, SIZE)
    with pytest.raises(ValueError, match="multiples of 4"):
        adapter.latent_shape(*size)
