"""Recorded transitions against the same moves made one by one, and what becomes of a run that is cut off or asked for the impossible."""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.jump import jump
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.gain import collect
from mcts_ray.gain.data import Recorded, read_manifest
from mcts_ray.gain.record import Scale, cosine
from mcts_ray.report import share
from mcts_ray.search import Setting
from mcts_ray.search.ids import seed_id

from .conftest import JUMPS, PROMPTS, T


def again(tiny_folder, out, scale, prompts=PROMPTS, **options):
    return collect.run(str(tiny_folder), "jpeg", prompts, out, scale=scale, levels=T, guidance=2.0, device="cpu", threads=1, **options)


def test_what_is_recorded(transitions):
    known = Recorded(transitions)
    data, manifest = known.transitions, known.manifest
    assert len(data) == 4 * 2 * 3 and known.features.shape == (len(data), manifest["features"]) and np.isfinite(known.features).all()
    assert set(data.prompt) == {0, 1, 2, 3} and data.level.min() >= 2 and data.level.max() <= T
    beyond = np.array(JUMPS)[None] > data.level[:, None]
    assert (np.isnan(data.reward).all(2) == beyond).all() and (np.isnan(data.error) == beyond).all()
    assert data.error[:, 0].max() < 1e-9 and np.isfinite(data.landed[:, 0]).all()
    calls = -(-(data.level[:, None] - np.array(JUMPS)[None]) // 2)  # completions of stride 2, the child's own call included
    assert (data.calls == np.where(beyond, -1, calls)).all()
    counts = {int(level): [int((~beyond[data.level == level, place]).sum()) for place in range(4)] for level in set(data.level)}
    assert {int(level): made for level, made in manifest["counts"].items()} == counts
    spent = sum(shard["nfe"] for shard in manifest["shards"])
    children = np.isfinite(data.reward).sum(2)
    above = (data.level - 1).sum() + (children * np.maximum(data.calls, 0)).sum()  # fine paths, and completed children
    assert above < spent <= above + 8 * T


def test_the_numbers_are_those_of_the_moves_made_one_by_one(transitions, tiny_folder):
    """The noise-free trajectory of the first prompt once more, with the denoiser alone; to 1e-4, batches differ in the last digits."""
    known = Recorded(transitions)
    data = known.transitions
    denoiser = Denoiser(make_adapter(load_pipeline(str(tiny_folder), "cpu")))
    levels = denoiser.levels(T)
    setting = Setting(PROMPTS[0], guidance=2.0, levels=T, height=32, width=32)

    def call(x, level):
        found = denoiser.denoise(x, [level], [setting])
        return found.x0, found.eps

    def move(x0, eps, level):
        alpha, sigma = (torch.tensor([levels.rows[level][place]]) for place in (1, 2))
        return jump(x0, eps, alpha, sigma, torch.zeros(1))

    from mcts_ray.diffusion.noise import draw

    row = np.flatnonzero((data.prompt == 0) & (data.trajectory == 0) & (data.level >= 4))[0]
    a = int(data.level[row])
    x = draw([seed_id(0, 0)], (4, 8, 8))
    for level in range(T, a, -1):
        x = move(*call(x, level), level - 1)
    x0, eps = call(x, a)
    fine, at, now = {}, (x0, eps), a
    while now:
        x = move(*at, now - 1)
        now -= 1
        at = call(x, now) if now else (x, None)
        fine[now] = at[0]
    assert data.similarity[row] == pytest.approx(cosine(x0, fine[0]), abs=1e-4)
    for place, k in ((1, 2), (2, 4)):
        landed = move(x0, eps, a - k)
        jumped = call(landed, a - k)[0] if a > k else landed
        assert data.error[row, place] == pytest.approx(1 - cosine(jumped, fine[a - k]), abs=1e-4)
        assert data.similar[row, place] == pytest.approx(cosine(jumped, fine[0]), abs=1e-4)


def test_noise_is_that_of_the_schedule(transitions):
    """Of `constant` every child but those at level 0 meets all noises, low levels too."""
    data = Recorded(transitions).transitions
    inside = np.array(JUMPS)[None] < data.level[:, None]
    assert (np.isfinite(data.reward).sum(2)[inside] == 3).all()


def test_a_run_that_is_cut_off_is_gone_on_with(transitions, tiny_folder, scale, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "PER_SHARD", 2)
    out, lines = tmp_path / "t", []

    def stop(line):
        lines.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(tiny_folder, out, scale, report=stop)
    assert lines == [lines[0]] and "2 of 4 prompts, 12 states" in lines[0]
    again(tiny_folder, out, scale, [*PROMPTS[:2], PROMPTS[0], *PROMPTS[2:]])  # a prompt that is there twice counts once
    whole, cut = Recorded(transitions), Recorded(out)
    assert len(read_manifest(out)["shards"]) == 2 and read_manifest(out)["counts"] == whole.manifest["counts"]
    for name in ("level", "prompt", "reward", "error"):
        np.testing.assert_allclose(getattr(cut.transitions, name), getattr(whole.transitions, name), atol=0.1)  # a jpeg has whole bytes
    before = (out / "manifest.json").read_text()
    again(tiny_folder, out, scale)  # done: nothing is loaded
    assert (out / "manifest.json").read_text() == before
    (out / "shard-00001.safetensors").unlink()
    again(tiny_folder, out, scale)
    assert (out / "shard-00001.safetensors").is_file() and len(Recorded(out).transitions) == len(whole.transitions)
    with pytest.raises(ValueError, match="holds transitions that were made with other scale; collect into another folder"):
        again(tiny_folder, out, replace(scale, noises=1))


def test_two_processes_share_a_collection(transitions, tiny_folder, scale, tmp_path, monkeypatch):
    """While one has the first shard under way, another makes the second; either ends with the manifest of all."""
    from mcts_ray.gain.record import Collector

    monkeypatch.setattr(collect, "PER_SHARD", 2)
    out, made, shard = tmp_path / "t", [], Collector.shard

    def slow(self, texts, first):
        made.append(first)
        if made == [0]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                assert pool.submit(_second_shard, str(tiny_folder), out, scale).result(120) == [0, 2]
        return shard(self, texts, first)

    monkeypatch.setattr(Collector, "shard", slow)
    again(tiny_folder, out, scale)
    assert made == [0] and [entry["prompts"] for entry in read_manifest(out)["shards"]] == [2, 2]
    whole = Recorded(transitions)
    assert sorted(Recorded(out).transitions.prompt) == sorted(whole.transitions.prompt)
    assert read_manifest(out)["counts"] == whole.manifest["counts"]


def _second_shard(tiny_folder, out, scale):
    """What another process would do, up to where it would wait; which shards it has come to."""
    collect.PER_SHARD, came = 2, []
    locked = share.turn

    @contextmanager
    def noted(lock, name, wait):
        if wait:
            raise KeyboardInterrupt
        came.append(2 * int(name[6:11]))
        with locked(lock, name, wait) as mine:
            yield mine

    share.turn = noted
    try:
        again(tiny_folder, out, scale)
    except KeyboardInterrupt:
        pass
    return came


def test_a_state_that_is_there_twice_counts_once(transitions, tmp_path):
    out = shutil.copytree(transitions, tmp_path / "t")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"] *= 2
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert len(Recorded(out).transitions) == 24


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scale": Scale(jumps=(2, 4))}, "jumps must be 1 and others, to which it is compared"),
        ({"scale": Scale(trajectories=1)}, "needs two trajectories at least, one with noise and one without"),
        ({"scale": Scale(at=(1,))}, "level 1 has nothing to choose; choose from 2 to 8"),
        ({"step_reward": "clip"}, "unknown step reward 'clip'; choose x0, lrm or value"),
        ({"grid": "bogus"}, "^grid: input should be 'native', .*, not 'bogus'"),
        ({"prompts": [" "]}, "a prompt must not be empty"),
        ({"scale": Scale(schedule="wild")}, "its schedule one of constant, taper, linear, cosine, not 1.2 and wild"),
        ({"scale": Scale(phi=0)}, "phi must be above 0 and at most 1.5"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(tmp_path, tiny_folder, monkeypatch, options, sentence):
    monkeypatch.setattr("mcts_ray.gain.record.load_pipeline", None)
    with pytest.raises(ValueError, match=sentence):
        again(tiny_folder, tmp_path / "t", **{"scale": Scale()} | options)


def test_the_size_is_bounded(tmp_path, tiny_folder):
    with pytest.raises(ValueError, match="32 states would write 0.0 GB to .* more than the limit of 1e-06"):
        again(tiny_folder, tmp_path / "t", Scale(), limit=1e-6)
