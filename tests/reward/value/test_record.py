import numpy as np
import pytest
import torch

from mcts_ray.reward.step import States
from mcts_ray.reward.value.record import Recorder, noted_levels


def test_one_level_from_each_tenth_or_those_that_were_asked_for():
    rng = np.random.default_rng(0)
    drawn = [noted_levels(30, None, rng) for _ in range(200)]
    assert all(len(levels) == 10 and all(28 - 3 * i <= level <= 30 - 3 * i for i, level in enumerate(levels)) for levels in drawn)
    assert {level for levels in drawn for level in levels} == set(range(1, 31))  # missed with probability 30 (2/3)^200
    assert noted_levels(4, None, rng) == (4, 3, 2, 1) and noted_levels(30, [3, 9, 3], rng) == (9, 3)


def test_a_recorder_numbers_what_it_is_shown():
    def states(n, at):
        x = torch.full((n, 4, 8, 8), float(at))
        taps = {"mid": torch.full((n, 6, 4, 4), 1e6)}
        return States(x, x + 1, x, torch.zeros(n), torch.full((n,), float(at)), taps, ("",) * n, torch.zeros(n, 3, 5))

    recorder = Recorder(["mid"], 2)
    assert recorder.score(states(2, 0)).tolist() == [0, 1] and recorder.score(states(3, 7)).tolist() == [2, 3, 4]
    rows = recorder.rows()
    assert rows["x"].shape == (5, 4, 2, 2) and rows["x0"][3, 0, 0, 0] == 8 and rows["log_snr"].tolist() == [0, 0, 7, 7, 7]
    assert torch.isfinite(rows["tap.mid"]).all() and rows["tap.mid"].dtype == torch.half
    assert recorder.score(states(1, 0)).tolist() == [0]


@pytest.mark.parametrize("eta", [0, 1])
def test_states_and_rewards_are_those_of_the_walk(collected, tiny_folder, eta):
    """One trajectory of a shard, walked again by itself."""
    from functools import partial

    from mcts_ray.diffusion.adapters.make import make_adapter
    from mcts_ray.diffusion.decode import Decoder
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.diffusion.engine import Engine
    from mcts_ray.diffusion.jump import phi_from_eta
    from mcts_ray.diffusion.load import load_pipeline
    from mcts_ray.reward import resolve_reward
    from mcts_ray.reward.value.data import Trajectories
    from mcts_ray.search import BestOfN, Setting
    from tests.diffusion.walks import run
    from tests.reward.value.conftest import LEVELS, PROMPTS

    denoiser = Denoiser(make_adapter(load_pipeline(str(tiny_folder), "cpu")))
    number, setting = 3, Setting(PROMPTS[3], guidance=2.0, levels=LEVELS, height=32, width=32)
    phi = partial(phi_from_eta, denoiser.levels(LEVELS), eta=float(eta))
    search = BestOfN("s", setting, 2 * LEVELS, seed=2 * (1_000_003 + number) + eta, phi=phi)
    from dataclasses import replace

    work = search.ask(2)[1]
    work = replace(work, keep=tuple(edge.node for edge in work.edges[:-1]))
    engine = Engine(denoiser)
    walked = run(engine, [work])[work.id]
    reward = resolve_reward("jpeg").score(Decoder(denoiser.adapter).decode(walked.latent[None]), [""])[0].score
    data = Trajectories(collected)
    for group in (group for group in data.groups if group.prompt == number):
        shard = data.shards[group.shard]
        row = group.start + shard["trajectory"][group.start : group.stop].tolist().index(2 * eta + 1)
        edge = next(edge for edge in work.edges if edge.level == group.level)
        kept = engine.store.get("search", edge.node) or engine.store.get("s", edge.node)
        torch.testing.assert_close(shard["x0"][row].float(), kept.x0, atol=2e-2, rtol=2e-3)
        assert shard["log_snr"][row] == pytest.approx(float(denoiser.levels(LEVELS).log_snr_L[group.level]), rel=1e-4)
        assert shard["reward"][row] == pytest.approx(reward, abs=0.03) and shard["eta"][row] == eta


def test_images_without_a_reward_are_left_out_and_all_of_them_are_an_error(tiny_folder, tmp_path, monkeypatch):
    from mcts_ray.reward.value import collect
    from mcts_ray.reward.value.data import read_manifest

    (tmp_path / "moody_reward.py").write_text(
        "def some(images, prompts):\n    return [float('nan') if p == 'a ring' else 1.0 * i.mean() for i, p in zip(images, prompts)]\n"
        "def none(images, prompts):\n    return [float('nan')] * len(prompts)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"trajectories": 2, "levels": 3, "device": "cpu"}
    out = collect.run(str(tiny_folder), "moody_reward:some", ["a ring", "a cross"], tmp_path / "some", **options)
    assert read_manifest(out)["shards"][0]["states"] == 2 * 3
    with pytest.raises(ValueError, match="none of 2 images got a reward; the last one: reward 'moody_reward:none' returned nan"):
        collect.run(str(tiny_folder), "moody_reward:none", ["a cross"], tmp_path / "none", **options)
