import numpy as np
import ot
import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.transport import REACH, Grid, assignment, beats, clouds, displaced, free_support, lowest, objective, read_back
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import blob

RNG = np.random.default_rng(3)
W = np.array([0.4, 0.3, 0.2, 0.1])


def random_clouds(n=4, k=49, f=6):
    return RNG.standard_normal((n, k, f))


@pytest.mark.parametrize(
    "side, patch, tokens",
    [
        ((8, 8), (1, 1), (8, 8)),
        ((64, 64), (4, 4), (16, 16)),
        ((128, 128), (8, 8), (16, 16)),
        ((104, 40), (7, 3), (16, 16)),
        ((5, 20), (1, 2), (5, 16)),
    ],
)
def test_sixteen_tokens_a_side_or_one_for_each_cell(side, patch, tokens):
    grid = Grid(*side)
    assert grid.patch == patch and grid.size == tokens and len(grid.places_K2) == tokens[0] * tokens[1]


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 64, 64), (3, 20, 37)])
def test_what_is_cut_and_laid_down_where_it_was_is_the_same(shape):
    """[1]"""
    (x,), grid = draw(["x"], shape), Grid(*shape[1:])
    torch.testing.assert_close(grid.lay_down(grid.cut(x[None])[0], grid.places_K2), x, rtol=1e-6, atol=1e-6)


def test_displacement_moves_patches_and_fills_the_hole_behind_them():
    x, grid = torch.zeros(1, 8, 8), Grid(8, 8)
    x[0, 2, 2] = 1.0
    at = grid.places_K2
    at[2 * 8 + 2] = (4, 5)
    moved = grid.lay_down(grid.cut(x[None])[0], at)
    assert moved[0, 2, 2] == 0 and moved[0, 4, 5] == pytest.approx(0.5)  # on top of the cell that was there
    at[2 * 8 + 2], at[4 * 8 + 5] = (4, 5), (2, 2)  # changed places
    assert grid.lay_down(grid.cut(x[None])[0], at)[0, 4, 5] == 1
    half = grid.places_K2
    half[2 * 8 + 2] = (2, 2.5)
    assert grid.lay_down(grid.cut(x[None])[0], half)[0, 2, 2:4].tolist() == pytest.approx([1.0, 1 / 3])


def test_tokens_hold_contents_and_places_in_their_unit():
    content = torch.from_numpy(RNG.standard_normal((2, 64, 4)))
    cloud = clouds(content, Grid(8, 8))
    np.testing.assert_allclose(cloud[..., :4], content - content.mean((0, 1)), atol=1e-6)
    variance = ((content - content.mean((0, 1))) ** 2).sum(-1).mean()
    assert cloud[0, 1, 5] == pytest.approx(float((2 * variance).sqrt()) / (REACH * 8))
    assert np.array_equal(clouds(torch.ones(2, 64, 4), Grid(8, 8))[..., 4:][0], Grid(8, 8).places_K2)  # flat: only places are left


def test_the_fixed_point_is_pots():
    """[10]"""
    for _ in range(3):
        cloud = random_clouds()
        found, plan = free_support(cloud, W, cloud[0], iterations=100)
        equal = [np.full(49, 1 / 49)] * 4
        theirs = ot.lp.free_support_barycenter(list(cloud), equal, cloud[0].copy(), weights=W, numItermax=100, stopThr=1e-15)
        np.testing.assert_allclose(found, theirs, atol=1e-8)
        assert all(sorted(row) == list(range(49)) for row in plan)


def test_the_objective_falls_with_every_step_and_below_all_inputs_and_the_mean():
    """[10, 11] Below the mean by up to 1 %, since a fixed point is a local minimum."""
    for _ in range(3):
        cloud = random_clouds()
        trace = [objective(free_support(cloud, W, cloud[0], n)[0], cloud, W) for n in (1, 2, 4, 100)]
        assert all(b <= a + 1e-12 for a, b in zip(trace, trace[1:]))
        assert trace[-1] <= min(objective(one, cloud, W) for one in cloud)
        assert trace[-1] <= 1.01 * objective(np.einsum("n,nkf->kf", W, cloud), cloud, W)


def equal_weights(seed, n=4):
    """Clouds of noise on a common ground, of which the fixed point from one of them is often above the mean."""
    x0 = draw([f"case {seed} {i}" for i in range(n)], (4, 8, 8)) + draw([f"case {seed}"], (4, 8, 8))
    return x0, clouds(tokens(x0), Grid(8, 8)), np.full(n, 1 / n)


def test_what_is_taken_is_no_worse_than_any_input_and_than_the_mean():
    """[11] With as many iterations as are shipped, and where the fixed point from the first cloud is worse than the mean."""
    again = 0
    for seed in range(8):
        _, cloud, w = equal_weights(seed)
        rivals = [np.einsum("n,nkf->kf", w, cloud), *cloud]
        costs = [objective(one, cloud, w) for one in rivals]
        first, plan = free_support(cloud, w, cloud[0])
        again += objective(first, cloud, w) > min(costs)
        assert beats(first, plan, rivals, cloud, w) == (objective(first, cloud, w) <= min(costs))
        taken = lowest(cloud, w, 0)
        found = np.einsum("n,nkf->kf", w, np.take_along_axis(cloud, taken[..., None], 1))
        assert objective(found, cloud, w) <= min(costs) * (1 + 1e-9)
    assert again >= 4


def test_where_nothing_better_is_found_it_is_a_refusal(monkeypatch):
    x0, w = siblings(), torch.tensor(W).float()
    monkeypatch.setattr("mcts_ray.fusion.transport.beats", lambda *told: False)
    assert displaced(tokens(x0), x0, w) is Refusal.STILL


def test_an_assignment_is_optimal_and_nearest_points_are_found_without_a_solver(monkeypatch):
    one, two = random_clouds(2, 30)
    plan = assignment(one, two)
    cost = ot.dist(one, two)
    assert cost[np.arange(30), plan].mean() == pytest.approx(ot.emd2([], [], cost), rel=1e-9)
    monkeypatch.setattr("mcts_ray.fusion.transport.linear_sum_assignment", None)
    order = RNG.permutation(30)
    assert np.array_equal(assignment(one[order] + 1e-3, one), order)


def test_in_one_dimension_it_averages_quantiles():
    """[9]"""
    cloud = random_clouds(4, 40, 1)
    found, _ = free_support(cloud, W, cloud[0], iterations=50)
    np.testing.assert_allclose(np.sort(found[:, 0]), np.einsum("n,nk->k", W, np.sort(cloud[..., 0], 1)), atol=1e-10)


def test_gaussians_come_near_their_closed_form_the_more_points_there_are():
    """[9] The Bures barycenter of two diagonal Gaussians of R^2 has the mean standard deviations. Errors of the covariance, which
    fall with n: 7 % at 1,024 points of R^4 in the notes; a bound of 10 % at 400 points of R^2, and half of the error at 25."""
    sds, w = np.array([[1.0, 1.0], [2.0, 0.5]]), np.array([0.5, 0.5])
    errors = {}
    for n in (25, 400):
        trials = []
        for seed in range(20 if n == 25 else 2):
            z = np.random.default_rng(seed).standard_normal((2, n, 2))
            z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)  # so that what is left is the matching alone
            found, _ = free_support(z * sds[:, None], w, z[0] * sds[0], iterations=20)
            trials.append(np.abs(np.cov(found.T, bias=True) - np.diag((w @ sds) ** 2)).max() / 2.25)
        errors[n] = np.mean(trials)
    assert errors[400] < 0.1 and errors[400] < 0.6 * errors[25]


def siblings(apart=0.5, shape=(4, 16, 16)):
    places = [0.5 - apart / 2 + apart * i / 3 for i in range(4)]
    return torch.stack([blob(shape, place, 0.5) for place in places])


def tokens(x0_NCHW):
    return Grid(*x0_NCHW.shape[2:]).cut(x0_NCHW).flatten(2)


def centre(x_CHW):
    """Row of the centre of mass of what stands out."""
    mass = (x_CHW[0] - x_CHW[0].median()).clamp_min(0)
    return float((mass.sum(1) * torch.arange(len(mass))).sum() / mass.sum())


def test_an_object_lands_at_its_mean_place_in_one_piece():
    x0, w = siblings(), torch.tensor(W).float()
    fused = displaced(tokens(x0), x0, w)
    mean = (w[:, None, None, None] * x0).sum(0)
    assert centre(fused) == pytest.approx(centre(mean), abs=0.8)
    assert fused.max() > 0.75 * x0.max() > 1.5 * mean.max() * 0.75  # the mean shows four faint ones


def test_still_tokens_are_a_refusal():
    x0, w = siblings(apart=0.0), torch.tensor(W).float()
    assert displaced(tokens(x0), x0, w) is Refusal.STILL
    assert displaced(tokens(x0[:1]), x0[:1], w[:1]) is Refusal.STILL


def test_equal_pictures_and_one_alone_read_back_as_they_are():
    """[1, 2, 3]"""
    x0, grid = siblings(apart=0.0), Grid(16, 16)
    plan = np.tile(np.arange(256), (4, 1))
    torch.testing.assert_close(read_back(plan, x0, W, grid), x0[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read_back(plan[:1], x0[2:3], np.ones(1), grid), x0[2], rtol=1e-5, atol=1e-5)
