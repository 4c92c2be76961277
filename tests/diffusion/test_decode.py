import copy

import numpy as np
import pytest
import torch

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.adapters.vae import VaeAdapter, scaled, unscaled
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.noise import draw
from tests.diffusion.walks import SHAPE
from tests.tiny import SIZE, tiny_pipeline, tiny_vae, tiny_xl_pipeline

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


def test_latents_with_a_mean_and_a_spread_of_their_own():
    pipe = tiny_xl_pipeline()
    pipe.vae.register_to_config(latents_mean=[0.5, -0.5, 0.25, 0.0], latents_std=[2.0, 1.0, 0.5, 3.0])
    options = {"num_inference_steps": 2, "latents": LATENTS[:1], "height": SIZE, "width": SIZE}
    latent = pipe("a ring", **options, output_type="latent").images
    decoded = Decoder(make_adapter(pipe)).decode(latent)
    assert np.array_equal(decoded[0], np.asarray(pipe("a ring", **options).images[0]))
    pipe.vae.register_to_config(latents_mean=None, latents_std=None)
    assert not np.array_equal(Decoder(make_adapter(pipe)).decode(latent), decoded)


@pytest.mark.parametrize(
    "config", [{}, {"shift_factor": 0.25}, {"latents_mean": [0.5, -0.5, 0.25, 0.0], "latents_std": [2.0, 1.0, 0.5, 3.0], "shift_factor": 9}]
)
def test_latents_are_scaled_by_the_inverse_of_what_the_decoder_does(config):
    vae = tiny_vae()
    vae.register_to_config(**config)
    torch.testing.assert_close(scaled(vae, unscaled(vae, LATENTS)), LATENTS)


def test_a_half_precision_autoencoder_of_sdxl_decodes_in_fp32(capfd):
    """In fp16 its values overflow. Weights and latents are the same numbers in both, so images are equal to the last digit."""
    vae = tiny_vae().half()
    vae.decoder.conv_norm_out.weight.data.fill_(3e4)  # past 65504 in fp16 where a normalised value exceeds 2.2
    inside = VaeAdapter(copy.deepcopy(vae).float(), upcast=True).decode(LATENTS[:2])
    adapter = VaeAdapter(vae, upcast=True)
    assert torch.equal(adapter.decode(LATENTS[:2]), inside) and inside.isfinite().all()
    assert vae.dtype == torch.float16  # as the pipeline left it
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match="channels"):
        adapter.decode(LATENTS[:2, :3])
    assert vae.dtype == torch.float16
    assert not VaeAdapter(vae).decode(LATENTS[:2]).isfinite().all()  # Stable Diffusion's pipeline does not ask
    vae.register_to_config(force_upcast=False)
    assert not VaeAdapter(vae, upcast=True).decode(LATENTS[:2]).isfinite().all()


def test_each_pipeline_upcasts_as_the_stock_one():
    for pipe, upcast in ((tiny_pipeline(), False), (tiny_xl_pipeline(), True)):
        assert pipe.vae.config.force_upcast and make_adapter(pipe)._vae._upcast is upcast


def test_bf16_autoencoder_gives_images():
    pipe = tiny_pipeline().to(dtype=torch.bfloat16)
    assert Decoder(StableDiffusionAdapter(pipe)).decode(LATENTS[:2]).shape == (2, SIZE, SIZE, 3)


@pytest.mark.parametrize("size", [(30, 32), (2, 32), (32, 0)])
def test_sizes_that_do_not_fit_the_autoencoder(pipe, size):
    adapter = StableDiffusionAdapter(pipe)
    assert adapter.latent_shape(32, 48) == (4, 8, 12) and adapter.default_size == (SIZE, SIZE)
    with pytest.raises(ValueError, match="multiples of 4"):
        adapter.latent_shape(*size)
