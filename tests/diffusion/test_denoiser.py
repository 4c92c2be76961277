import importlib.util

import pytest
import torch

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.prompts import Condition
from tests.diffusion.walks import SHAPE, engine_of, run, seed_walk, setting
from tests.tiny import tiny_pipeline

MIXED = [
    (setting("a red circle", guidance=3.0, levels=10), 10),
    (setting("a red circle", guidance=1.0, levels=10), 4),
    (setting("blue ring", guidance=7.5, levels=20, negative_prompt="green"), 20),
    (setting("blue ring", guidance=7.5, levels=20), 1),
    (setting("", guidance=0.0, levels=7), 3),
    (setting("a cross", guidance=2.0, levels=10, grid="ays", negative_prompt="a red circle"), 9),
]


def states(count):
    return draw([f"x{i}" for i in range(count)], SHAPE)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_mixed_batch_equals_one_by_one(prediction_type):
    denoiser = Denoiser(StableDiffusionAdapter(tiny_pipeline(prediction_type)))
    settings, levels = zip(*MIXED, strict=True)
    x = states(len(MIXED))
    names = ("down.0", "mid", "up.1")
    together = denoiser.denoise(x, levels, settings, names)
    assert together.forwards == 4 * 2 + 2
    for b in range(len(MIXED)):
        alone = denoiser.denoise(x[b : b + 1], levels[b : b + 1], settings[b : b + 1], names)
        alpha = denoiser.levels(settings[b].levels, settings[b].grid).alpha_L[levels[b]]
        torch.testing.assert_close(together.eps[b], alone.eps[0], atol=1e-5, rtol=0)
        # x0 = (x - sigma eps)/alpha: at level T the division enlarges the last digit of eps by 1/alpha = 15 and more
        torch.testing.assert_close(alpha * together.x0[b], alpha * alone.x0[0], atol=1e-5, rtol=0)
        for name in names:
            torch.testing.assert_close(together.taps[name][b], alone.taps[name][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.taps_uncond[name][b], alone.taps_uncond[name][0], atol=1e-5, rtol=1e-5)


def test_x_is_made_of_x0_and_eps(denoiser):
    settings, levels = zip(*MIXED, strict=True)
    x = states(len(MIXED))
    prediction = denoiser.denoise(x, levels, settings)
    for b, (each, level) in enumerate(MIXED):
        _, alpha, sigma = denoiser.levels(each.levels, each.grid).rows[level]
        torch.testing.assert_close(alpha * prediction.x0[b] + sigma * prediction.eps[b], x[b], atol=1e-5, rtol=1e-5)


def test_no_guidance_is_the_conditional_branch(denoiser):
    x = states(1)
    for guidance in (1.0, 0.0):
        prediction = denoiser.denoise(x, [5], [setting(guidance=guidance, negative_prompt="green")])
        t = denoiser.levels(10).timesteps_L[5]
        condition = Condition.stack([denoiser.adapter.encode("a red circle")])
        assert prediction.forwards == 1
        torch.testing.assert_close(prediction.eps, denoiser.adapter.forward(x, t[None], condition), atol=1e-6, rtol=0)


def test_taps_come_from_the_same_call(denoiser, monkeypatch):
    calls = []
    forward = denoiser.adapter.forward
    monkeypatch.setattr(denoiser.adapter, "forward", lambda *args: calls.append(1) or forward(*args))
    guided, plain = setting(), setting(guidance=1.0)
    x = states(2)
    maps = denoiser.denoise(x, [8, 8], [guided, plain], ["down.0", "mid", "up.0", "up.1"])
    assert len(calls) == 1
    assert {name: tuple(tap.shape) for name, tap in maps.taps.items()} == {
        "down.0": (2, 8, 8, 8),
        "mid": (2, 16, 4, 4),
        "up.0": (2, 16, 8, 8),
        "up.1": (2, 8, 8, 8),
    }
    pooled = denoiser.denoise(x, [8, 8], [guided, plain], ["mid"], pooled=True)
    torch.testing.assert_close(pooled.taps["mid"], maps.taps["mid"].mean(dim=(2, 3)))
    assert torch.equal(maps.taps["mid"][1], maps.taps_uncond["mid"][1])  # no guidance: one branch
    assert not torch.equal(maps.taps["mid"][0], maps.taps_uncond["mid"][0])
    bare = denoiser.denoise(x, [8, 8], [guided, plain])
    assert bare.taps == {} and torch.equal(bare.x0, maps.x0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in denoiser.adapter.unet.modules())
    with pytest.raises(ValueError, match="no tap named 'down.1'; this network has down.0, mid"):
        denoiser.denoise(x, [8, 8], [guided, plain], ["down.1"])


def test_out_of_memory_halves_the_batch(denoiser, monkeypatch):
    settings = [setting(f"p{i}") for i in range(7)]
    x = states(7)
    whole = denoiser.denoise(x, [6] * 7, settings, ["mid"])
    forward = denoiser.adapter.forward

    def small_memory(x_NCHW, *args):
        if len(x_NCHW) > 2 * 3:
            raise torch.OutOfMemoryError("no")
        return forward(x_NCHW, *args)

    monkeypatch.setattr(denoiser.adapter, "forward", small_memory)
    sliced = denoiser.denoise(x, [6] * 7, settings, ["mid"])
    assert denoiser.slices.limit == 3 and sliced.forwards == whole.forwards == 14
    torch.testing.assert_close(sliced.x0, whole.x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(sliced.taps["mid"], whole.taps["mid"], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(denoiser.adapter, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(torch.OutOfMemoryError, match="with a single image"):
        denoiser.denoise(x, [6] * 7, settings)


def test_bf16_network_in_fp32_arithmetic():
    pipe = tiny_pipeline().to(dtype=torch.bfloat16)
    denoiser = Denoiser(StableDiffusionAdapter(pipe))
    prediction = denoiser.denoise(states(2), [9, 3], [setting(), setting(guidance=1.0)], ["mid"])
    assert prediction.x0.dtype == prediction.eps.dtype == prediction.taps["mid"].dtype == torch.float32
    latent = run(engine_of(pipe), [seed_walk("w", setting())])["w"].latent
    assert latent.dtype == torch.float32 and torch.isfinite(latent).all()


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA needs peft (the test extra)")
def test_lora_adapter_applies():
    from peft import LoraConfig

    pipe = tiny_pipeline()
    x, settings = states(2), [setting(), setting(guidance=1.0)]
    plain = Denoiser(StableDiffusionAdapter(pipe)).denoise(x, [9, 3], settings)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    denoiser = Denoiser(StableDiffusionAdapter(pipe))
    changed = denoiser.denoise(x, [9, 3], settings, ["down.0", "mid"])
    assert (changed.x0 - plain.x0).abs().max() > 1e-3 and set(changed.taps) == {"down.0", "mid"}
    from tests.diffusion.test_exact import close, stock

    close(run(engine_of(pipe), [seed_walk("w", setting())])["w"].latent, stock(pipe, "w/10", 10))
