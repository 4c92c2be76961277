"""How many samples go into a denoiser call: what is tried, what is picked of it, what calls are filled up to."""

import logging
from types import SimpleNamespace

import pytest
import torch

from mcts_ray.diffusion import denoiser as denoising
from mcts_ray.diffusion.device import batch_size
from mcts_ray.diffusion.sizing import bucket, candidates, check_batch_size, choose_batch_size, pick, tried
from tests.diffusion.walks import SHAPE


def test_buckets_are_powers_of_two_and_the_full_sizes():
    assert [bucket(rows, 64) for rows in (1, 2, 3, 5, 63, 64, 65, 128)] == [1, 2, 4, 8, 64, 64, 128, 128]
    assert [bucket(rows, 12) for rows in (3, 8, 9, 12, 13, 17, 24)] == [4, 8, 12, 12, 16, 24, 24]
    for full in range(1, 70):
        assert all(rows <= bucket(rows, full) < 2 * rows for rows in range(1, 2 * full + 1))


def test_candidates_are_powers_of_two_around_the_usual_size():
    assert candidates(64) == [8, 16, 32, 64, 128] and candidates(42) == [4, 8, 16, 32, 64]
    assert candidates(16) == [2, 4, 8, 16, 32] and candidates(1) == [1, 2]


def test_the_smallest_size_close_to_the_best_is_picked():
    assert pick({8: 50.0, 16: 98.0, 32: 100.0, 64: 99.0}) == 16
    assert pick({8: 50.0, 16: 96.0, 32: 100.0}) == 32
    assert pick({}) == 1


def test_trying_ends_where_more_is_slower_or_memory_is_out():
    asked = []

    def rate(size, fits=10**9, best=10**9):
        asked.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("no")
        return float(min(size, 2 * best - size))

    assert tried([1, 2, 4, 8], lambda size: rate(size, fits=2)) == {1: 1.0, 2: 2.0} and asked == [1, 2, 4]
    asked.clear()
    assert list(tried([1, 2, 4, 8, 16], lambda size: rate(size, best=3))) == [1, 2, 4, 8] and asked == [1, 2, 4, 8]


def test_a_profile_is_made_once_for_each_shape_and_logged(denoiser, monkeypatch, caplog):
    made = []
    monkeypatch.setattr(denoising, "profile", lambda *args, profile=denoising.profile: made.append(profile(*args)) or made[-1])
    with caplog.at_level(logging.INFO, "mcts_ray"):
        sizes = [choose_batch_size(denoiser, shape, "profile") for shape in (SHAPE, SHAPE, (4, 64, 64))]
    assert len(made) == 2 and sizes == [made[0], made[0], made[1]]
    assert sizes[0] in candidates(batch_size("cpu", SHAPE)) and sizes[2] in candidates(batch_size("cpu", (4, 64, 64)))
    assert f"batches of {sizes[0]} samples" in caplog.text


def test_a_profile_counts_for_nobody_and_hides_no_lack_of_memory(denoiser, monkeypatch):
    forward, most = denoiser.adapter.forward, []

    def tight(x_NCHW, *args):
        most.append(len(x_NCHW))
        if len(x_NCHW) > 40:
            raise torch.OutOfMemoryError("no")
        return forward(x_NCHW, *args)

    monkeypatch.setattr(denoiser.adapter, "forward", tight)
    assert denoiser.fastest(SHAPE) in (8, 16) and max(most) <= 64 and denoiser.slices.limit is None


def test_who_decides(denoiser):
    assert choose_batch_size(denoiser, SHAPE, 5) == 5 and choose_batch_size(denoiser, SHAPE) == batch_size("cpu", SHAPE) == 64
    gpu = SimpleNamespace(device=torch.device("cuda"), fastest=lambda shape: 32)
    assert choose_batch_size(gpu, SHAPE) == choose_batch_size(gpu, SHAPE, "profile") == 32 and choose_batch_size(gpu, SHAPE, 7) == 7
    for bad in (0, -1, True, "many", 2.5):
        with pytest.raises(ValueError, match="the batch size must be a number of samples from 1 on, or 'profile', not"):
            check_batch_size(bad)
