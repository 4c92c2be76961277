"""SDXL against the stock pipeline with the same initial latents (fp32, CPU): at most 1e-4 in latents, equal images."""

import json
import logging

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DModel,
)

from mcts_ray.diffusion import load
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.adapters.sdxl import StableDiffusionXLAdapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.errors import UnsupportedModel, UnsupportedScheduler
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.load import load_pipeline, use_ddim
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.prompts import Condition
from mcts_ray.diffusion.resolve import image_size, resolve_model
from tests.diffusion.walks import engine_of, run, seed_walk, setting
from tests.tiny import SD_BETAS, SIZE, tiny_xl_pipeline

T = 4
WIDE = 48
REQUESTS = {  # mixed in one engine: guidance, negative prompts and sizes
    "plain": setting("a red circle", guidance=1.0, levels=T),
    "guided": setting("a red circle", guidance=5.0, levels=T),
    "negative": setting("blue square, left of a ring", negative_prompt="a green cross", guidance=3.0, levels=T),
    "empty": setting("", guidance=3.0, levels=T),
    "wide": setting("a ring", guidance=3.0, levels=T, width=WIDE),
    "wide plain": setting("two crosses, and more words than fit", guidance=0.0, levels=T, width=WIDE),
}
# scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0
SHIPPED = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


@pytest.fixture(scope="module")
def xl():
    return tiny_xl_pipeline()


@pytest.fixture(scope="module")
def adapter(xl):
    return make_adapter(xl)


@pytest.fixture(scope="module")
def walked(xl):
    """The final latents of all requests at eta 0."""
    return walk(xl)


def stock(pipe, name, setting, **options):
    """The stock pipeline's final latent from the noise of node NAME; an empty negative prompt is none."""
    shape = make_adapter(pipe).latent_shape(setting.height, setting.width)
    options = {"output_type": "latent", **options}
    images = pipe(
        setting.prompt,
        negative_prompt=setting.negative_prompt or None,
        num_inference_steps=setting.levels,
        guidance_scale=setting.guidance,
        latents=draw([name], shape),
        height=setting.height,
        width=setting.width,
        **options,
    ).images
    return images[0]


def walk(pipe, requests=REQUESTS, **options):
    works = [seed_walk(name, each, **options) for name, each in requests.items()]
    return {name: walked.latent for name, walked in run(engine_of(pipe), works).items()}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_eta_zero_is_the_stock_pipeline(xl, adapter, walked):
    for name, each in REQUESTS.items():
        close(walked[name], stock(xl, f"{name}/{T}", each))
    image = stock(xl, f"wide/{T}", REQUESTS["wide"], output_type="np")
    assert image.shape == (SIZE, WIDE, 3)
    assert np.array_equal(Decoder(adapter).decode(walked["wide"][None])[0], (image * 255).round().astype(np.uint8))


def test_eta_one_is_the_stock_pipeline_with_the_noise_of_the_nodes(xl, walked, monkeypatch):
    levels = Denoiser(make_adapter(xl)).levels(T)
    names = ("plain", "negative", "wide")
    ours = walk(xl, {name: REQUESTS[name] for name in names}, phi=lambda a, s: phi_from_eta(levels, a, s, 1.0))
    step = xl.scheduler.step
    for name in names:
        shape = make_adapter(xl).latent_shape(SIZE, REQUESTS[name].width)
        noise = iter([draw([f"{name}/{level}"], shape) for level in range(T - 1, -1, -1)])

        def with_noise(output, t, x, eta=0.0, generator=None, return_dict=True, noise=noise):
            return step(output, t, x, eta=eta, variance_noise=next(noise), return_dict=return_dict)

        monkeypatch.setattr(xl.scheduler, "step", with_noise)
        close(ours[name], stock(xl, f"{name}/{T}", REQUESTS[name], eta=1.0))
        assert (ours[name] - walked[name]).abs().max() > 0.1


def test_sizes_and_pooled_embeddings_reach_the_network(xl, adapter, walked):
    """Otherwise the equalities above would not see them."""
    each = REQUESTS["guided"]
    for options in ({"original_size": (SIZE, WIDE)}, {"crops_coords_top_left": (0, 8)}, {"target_size": (WIDE, SIZE)}):
        assert (walked["guided"] - stock(xl, f"guided/{T}", each, **options)).abs().max() > 1e-3
    condition = Condition.stack([adapter.encode("a ring")])
    x, t = draw(["x"], (4, 8, 8)), torch.tensor([500.0])
    blank = Condition(condition.embedding, torch.zeros_like(condition.pooled))
    assert (adapter.forward(x, t, condition) - adapter.forward(x, t, blank)).abs().max() > 1e-4


def test_an_empty_negative_prompt_is_zeros_unless_the_pipeline_says_otherwise(adapter, walked):
    positive, negative, other = adapter.encode(""), adapter.encode("", negative=True), adapter.encode("ring", negative=True)
    assert positive.embedding.shape == negative.embedding.shape == (16, 32) and positive.pooled.shape == (24,)
    assert positive.embedding.abs().min(1).values.max() > 0 and positive.pooled.abs().max() > 0
    assert not negative.embedding.any() and not negative.pooled.any() and other.embedding.any()
    reading = tiny_xl_pipeline(force_zeros_for_empty_prompt=False)
    assert torch.equal(make_adapter(reading).encode("", negative=True).embedding, positive.embedding)
    each = REQUESTS["guided"]
    ours = walk(reading, {"guided": each})["guided"]
    close(ours, stock(reading, f"guided/{T}", each))
    assert (ours - walked["guided"]).abs().max() > 1e-3


def test_mixed_batch_equals_one_by_one(adapter):
    denoiser = Denoiser(adapter)
    settings = [each for each in REQUESTS.values() if each.width == SIZE]
    levels = [T, 4, 2, 1]
    x = draw([f"x{i}" for i in range(len(settings))], (4, 8, 8))
    names = ("down.0", "down.1", "mid", "up.0", "up.2")
    together = denoiser.denoise(x, levels, settings, names)
    assert together.forwards == 1 + 3 * 2
    for b in range(len(settings)):
        alone = denoiser.denoise(x[b : b + 1], levels[b : b + 1], settings[b : b + 1], names)
        torch.testing.assert_close(together.eps[b], alone.eps[0], atol=1e-5, rtol=0)
        for name in names:
            torch.testing.assert_close(together.taps[name][b], alone.taps[name][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.taps_uncond[name][b], alone.taps_uncond[name][0], atol=1e-5, rtol=1e-5)


def test_taps_of_three_blocks(adapter):
    names = ["down.0", "down.1", "mid", "up.0", "up.1", "up.2"]
    assert list(adapter.tap_points) == names  # the last block has no down-sampler
    taps = Denoiser(adapter).denoise(draw(["x"], (4, 8, 12)), [3], [REQUESTS["wide"]], names).taps
    assert [tuple(taps[name].shape[1:]) for name in names] == [
        (8, 8, 12), (16, 4, 6), (16, 2, 3), (16, 4, 6), (16, 8, 12), (8, 8, 12)
    ]  # fmt: skip


def test_the_second_text_encoder_alone(xl):
    alone = StableDiffusionXLPipeline(**{**xl.components, "text_encoder": None, "tokenizer": None}, add_watermarker=False)
    alone.unet = type(xl.unet).from_config({**xl.unet.config, "cross_attention_dim": 16})
    alone.set_progress_bar_config(disable=True)
    each = REQUESTS["negative"]
    close(walk(alone, {"w": each})["w"], stock(alone, f"w/{T}", each))


def test_bf16_network_in_fp32_arithmetic():
    pipe = tiny_xl_pipeline().to(dtype=torch.bfloat16)
    latent = walk(pipe, {"w": REQUESTS["guided"]})["w"]
    assert latent.dtype == torch.float32 and torch.isfinite(latent).all()
    assert Decoder(make_adapter(pipe)).decode(latent[None]).shape == (1, SIZE, SIZE, 3)


def test_an_euler_scheduler_is_read_as_it_is(adapter):
    """Given to the adapter as an object; `Searcher` and `load_pipeline` replace it by DDIM."""
    pipe = tiny_xl_pipeline(EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1))
    each = REQUESTS["negative"]
    ours = walk(pipe, {"w": each})["w"]
    close(ours, stock(pipe, f"w/{T}", each))
    replaced = walk(use_ddim(pipe, "euler"), {"w": each})["w"]
    assert isinstance(pipe.scheduler, DDIMScheduler)
    close(replaced, ours)  # both end clean: this scheduler has no `set_alpha_to_one` to hand on, as SDXL's file has


@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler(), EulerDiscreteScheduler()])
def test_a_scheduler_of_another_kind_of_noise_is_not_replaced(scheduler):
    if isinstance(scheduler, EulerDiscreteScheduler):
        scheduler.register_to_config(use_flow_sigmas=True)
    with pytest.raises(UnsupportedScheduler, match="the pipeline ships .*Euler.*, which has no noise schedule that DDIM"):
        use_ddim(tiny_xl_pipeline(scheduler))


def test_a_folder_as_sdxl_ships(tiny_xl_folder, tmp_path, caplog, capfd):
    """Its Euler file becomes DDIM with `leading` steps from 1 that does not end clean."""
    folder = tmp_path / "xl"
    folder.mkdir()
    for part in tiny_xl_folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "scheduler").unlink()
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SHIPPED))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "EulerDiscreteScheduler"]}))
    load._announced.clear()
    with caplog.at_level(logging.WARNING, "mcts_ray"):
        loaded = load_pipeline(str(folder), "cpu")
    assert capfd.readouterr() == ("", "") and len(caplog.records) == 1
    assert isinstance(loaded, StableDiffusionXLPipeline) and isinstance(loaded.scheduler, DDIMScheduler)
    config = loaded.scheduler.config
    assert (config.steps_offset, config.set_alpha_to_one, config.timestep_spacing) == (1, False, "leading")
    theirs = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    each = REQUESTS["guided"]
    close(walk(loaded, {"w": each})["w"], stock(theirs, f"w/{T}", each))


def test_sizes(adapter, tiny_xl_folder):
    model = resolve_model(str(tiny_xl_folder))
    assert model.is_xl and image_size(model) == adapter.default_size == (SIZE, SIZE)
    assert adapter.latent_shape(SIZE, WIDE) == (4, 8, 12)
    with pytest.raises(ValueError, match="multiples of 4"):
        adapter.latent_shape(30, 32)


def refusing(message, change):
    return pytest.param(message, change, id=message)


def configured(part, **values):
    return lambda pipe: getattr(pipe, part).register_to_config(**values)


@pytest.mark.parametrize(
    "message, change",
    [
        refusing(r"guidance-distilled U-Net \(LCM\)", configured("unet", time_cond_proj_dim=16)),
        refusing("a U-Net from 9 to 4 channels", configured("unet", in_channels=9)),
        refusing("IP adapter", configured("unet", encoder_hid_dim_type="ip_image_proj")),
        refusing("around a U-Net with addition_embed_type image", configured("unet", addition_embed_type="image")),
        refusing("a U-Net of 4 channels on 16-channel latents", configured("vae", latent_channels=16)),
        refusing("an SDXL U-Net with 72 added features where .* make 84", configured("unet", addition_time_embed_dim=10)),
        refusing("without its second text encoder", lambda pipe: setattr(pipe, "text_encoder_2", None)),
    ],
)
def test_what_is_not_supported(message, change):
    pipe = tiny_xl_pipeline()
    change(pipe)
    with pytest.raises(UnsupportedModel, match=message):
        make_adapter(pipe)


def test_each_pipeline_has_its_adapter(pipe, adapter):
    assert type(make_adapter(pipe)) is StableDiffusionAdapter and type(adapter) is StableDiffusionXLAdapter
    with pytest.raises(UnsupportedModel, match="a StableDiffusionPipeline around a U-Net with addition_embed_type text_time"):
        StableDiffusionAdapter(adapter.pipe)
    other = DDIMPipeline(UNet2DModel(8, block_out_channels=(8, 8, 8, 8), norm_num_groups=4), DDIMScheduler())
    with pytest.raises(UnsupportedModel, match="a DDIMPipeline is not supported; use a StableDiffusionPipeline or a StableDiffusionXL"):
        make_adapter(other)
