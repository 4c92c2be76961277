"""Walks of the engine against the stock pipeline with the same initial latents (fp32, CPU): at most 1e-4 in latents."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.load import use_ddim
from mcts_ray.diffusion.noise import draw
from tests.diffusion.walks import SHAPE, engine_of, run, seed_walk, setting
from tests.tiny import SD_BETAS, SIZE, tiny_pipeline, tiny_scheduler

PROMPTS = [("a red circle", ""), ("blue square, left of a ring", "a green cross")]


def stock(pipe, name, T, guidance=3.0, prompt=PROMPTS[0], **options):
    """The stock pipeline's final latent from the noise of node NAME."""
    images = pipe(
        prompt[0],
        negative_prompt=prompt[1],
        num_inference_steps=T,
        guidance_scale=guidance,
        latents=draw([name], SHAPE),
        height=SIZE,
        width=SIZE,
        output_type="latent",
        **options,
    ).images
    return images[0]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_phi_zero_k_one_is_the_stock_pipeline(prediction_type, guidance):
    pipe = tiny_pipeline(prediction_type)
    works = [
        seed_walk(f"w{i}", setting(prompt, negative_prompt=negative, guidance=guidance))
        for i, (prompt, negative) in enumerate(PROMPTS)
    ]
    walked = run(engine_of(pipe), works)
    for i, prompt in enumerate(PROMPTS):
        close(walked[f"w{i}"].latent, stock(pipe, f"w{i}/10", 10, guidance, prompt))


def test_zero_terminal_snr():
    scheduler = tiny_scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    pipe = tiny_pipeline("v_prediction", scheduler)
    close(run(engine_of(pipe), [seed_walk("w", setting())])["w"].latent, stock(pipe, "w/10", 10))


def test_euler_starts_at_its_own_scale():
    pipe = tiny_pipeline(scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="linspace"))
    close(run(engine_of(pipe), [seed_walk("w", setting())])["w"].latent, stock(pipe, "w/10", 10))


def test_another_scheduler_is_replaced_by_ddim():
    pipe = use_ddim(tiny_pipeline(scheduler=UniPCMultistepScheduler(**SD_BETAS, steps_offset=1)), "unipc")
    assert isinstance(pipe.scheduler, DDIMScheduler) and not pipe.scheduler.config.clip_sample
    close(run(engine_of(pipe), [seed_walk("w", setting())])["w"].latent, stock(pipe, "w/10", 10))


def test_trailing_k_two():
    pipe = tiny_pipeline(scheduler=tiny_scheduler(timestep_spacing="trailing"))
    walk = seed_walk("w", setting(levels=20), range(20, -1, -2))
    close(run(engine_of(pipe), [walk])["w"].latent, stock(pipe, "w/20", 10))


@pytest.mark.parametrize("T", [8, 10])
def test_trailing_grid_is_the_stock_pipeline_with_trailing_steps(T):
    """T divides 1000: only there does a stock DDIM step end at the next time step."""
    pipe = tiny_pipeline()
    ours = run(engine_of(pipe), [seed_walk("w", setting(levels=T, grid="trailing"))])["w"].latent
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    close(ours, stock(pipe, f"w/{T}", T))


@pytest.mark.parametrize("grid, option", [("trailing", {"timestep_spacing": "trailing"}), ("karras", {"use_karras_sigmas": True})])
def test_grids_are_the_stock_pipeline_with_euler(grid, option):
    T = 7  # does not divide 1000
    pipe = tiny_pipeline(scheduler=EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading", steps_offset=1))
    ours = run(engine_of(pipe), [seed_walk("w", setting(levels=T, grid=grid))])["w"].latent
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **option)
    close(ours, stock(pipe, f"w/{T}", T))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_eta_with_the_noise_of_the_nodes(prediction_type, eta):
    pipe = tiny_pipeline(prediction_type)
    engine = engine_of(pipe)
    levels = engine.denoiser.levels(10)
    walk = seed_walk("w", setting(guidance=1.0), phi=lambda a, s: phi_from_eta(levels, a, s, eta))
    ours = run(engine, [walk])["w"].latent

    scheduler = tiny_scheduler(prediction_type)
    scheduler.set_timesteps(10)
    embedding = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    x = draw(["w/10"], SHAPE)
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            output = pipe.unet(x, t, encoder_hidden_states=embedding).sample
        x = scheduler.step(output, t, x, eta=eta, variance_noise=draw([f"w/{9 - i}"], SHAPE)).prev_sample
    close(ours, x[0])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("T", [8, 20])
def test_second_order_is_dpm_solver_pp_2m(prediction_type, T):
    scheduler = DPMSolverMultistepScheduler(
        **SD_BETAS, prediction_type=prediction_type, solver_type="midpoint", final_sigmas_type="zero"
    )
    pipe = tiny_pipeline(prediction_type, scheduler)
    engine = engine_of(pipe)
    second = run(engine, [seed_walk("w", setting(levels=T, order=2))])["w"].latent
    close(second, stock(pipe, f"w/{T}", T))
    first = run(engine, [seed_walk("w", setting(levels=T))])["w"].latent
    assert (first - second).abs().max() > 1e-3


def test_second_order_survives_a_stay_in_the_store():
    """A walk cut at a kept node equals the uncut one: the node carries m1 and the level before it."""
    engine = engine_of(tiny_pipeline())
    shared = setting(levels=12, order=2)
    whole = seed_walk("w", shared)
    cut = seed_walk("w", shared, range(12, 5, -1), keep=("w/6",))
    rest = type(whole)("rest", "search", shared, "w/6", "jump", whole.edges[7:])
    uncut = run(engine, [whole])["w"].latent
    run(engine, [cut])
    assert torch.equal(run(engine, [rest])["rest"].latent, uncut)


def test_first_order_after_noise_and_for_longer_jumps():
    """Order 2 equals order 1 where every move has no history: alternating phi > 0 edges, or jumps growing at r < 1/2."""
    engine = engine_of(tiny_pipeline())
    noisy = dict(levels=list(range(12, -1, -1)), phi=lambda a, s: 0.3 * (a % 2))
    growing = dict(levels=[20, 19, 16, 6, 0])
    for T, path in ((12, noisy), (20, growing)):
        first, second = (
            run(engine, [seed_walk("w", setting(levels=T, order=order), **path)])["w"].latent for order in (1, 2)
        )
        assert torch.equal(first, second)
