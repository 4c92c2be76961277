"""Every mode through the same properties; numbers in brackets are those of the invariants in the design notes."""

import math
import os
from dataclasses import replace

import pytest
import torch

from mcts_ray.actors.fusion import FusionWorker
from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.decoder import DecoderNetwork
from mcts_ray.fusion.ensemble import column
from mcts_ray.fusion.fuser import fuse, log_snr, start_of
from mcts_ray.fusion.innovation import barycenter
from mcts_ray.fusion.siblings import Siblings
from mcts_ray.tree.weights import FEATURES, MODES, STATES, Refusal
from tests.fusion import family
from tests.fusion.family import NAMES, kept, weights, work
from tests.fusion.test_innovation import normal

SHAPE = (4, 8, 8)
WEIGHTS = weights()
WHOLE = {"x0_transport", "features", "slerp"}
KEEPS_LENGTH = {"innovation", "signed", "ensemble", "decoder"}
EVERY = pytest.mark.parametrize("mode", family.MODES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A decoder that nobody has trained."""
    path = tmp_path_factory.mktemp("decoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DecoderNetwork(8, 4, width=16, blocks=1).save(path, {"tap": "up.0"})
    return str(path)


def start(mode, folder, names=NAMES, a=None, states=None, shape=SHAPE, draw=0):
    return start_of(work(mode, names, a, draw, folder), shape, kept(NAMES, shape) if states is None else states)


def noise_of(made, states):
    """The noise that leads to a start, whatever kind it is."""
    siblings = Siblings.of(work("slerp"), tuple(made.tensor.shape), states)
    return siblings.innovation(made.tensor) if made.whole else made.tensor


def test_the_list_of_modes_is_whole():
    assert set(family.MODES) == set(MODES) and FEATURES < STATES and WHOLE < STATES


@EVERY
def test_a_start_is_finite_and_of_the_kind_of_its_mode(mode, folder):
    made = start(mode, folder)
    assert made.tensor.shape == SHAPE and made.tensor.dtype == torch.float32 and made.tensor.isfinite().all()
    assert made.whole == (mode in WHOLE) and made.fallback is None


@EVERY
@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 128, 128), (4, 24, 40), (1, 32, 32), (16, 16, 16)])
def test_shapes(mode, folder, shape):
    """[18] SD 1.5, SDXL, one that is no multiple of the token grid, one channel, many channels (none of them the decoder's)."""
    if mode == "decoder" and shape[0] != 4:
        return
    made = start(mode, folder, shape=shape)
    assert made.tensor.shape == shape and made.tensor.isfinite().all()


@EVERY
def test_the_order_of_particles_does_not_matter(mode, folder):
    """[4] Nor with ties: the start of a transport is the heaviest with the smallest id."""
    for a in (weights(mode), (0.25, 0.25, 0.25, 0.25, 0.0, 0.0)):
        one = start(mode, folder, a=a)
        order = (4, 0, 5, 2, 1, 3)
        two = start(mode, folder, [NAMES[i] for i in order], [a[i] for i in order])
        if isinstance(one, Refusal):
            assert two is one
        else:
            torch.testing.assert_close(two.tensor, one.tensor, rtol=1e-5, atol=1e-5)


@EVERY
def test_twice_the_same_and_nothing_changed(mode, folder):
    """[13, 16] Under `inference_mode` too."""
    states = kept()
    before = {name: (state.x0.clone(), state.eps.clone(), state.features.clone()) for name, state in states.items()}
    one = start(mode, folder, states=states)
    with torch.inference_mode():
        two = start(mode, folder, states=states)
    assert torch.equal(one.tensor, two.tensor) and not one.tensor.requires_grad
    after = {name: (state.x0, state.eps, state.features) for name, state in states.items()}
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], after[name], strict=True))


@EVERY
def test_the_unit_of_the_weights_does_not_matter(mode, folder):
    """[8] Rewards enter standardised (`tests/tree/test_weights.py`); here: weights times 3."""
    one, two = start(mode, folder), start(mode, folder, a=[3 * a for a in weights(mode)])
    torch.testing.assert_close(two.tensor, one.tensor, rtol=1e-4, atol=1e-4)


@EVERY
def test_the_level_is_kept_by_those_that_say_so(mode, folder):
    """[5, 6] The noise is as long as its siblings' are; the mean's is shorter by ||a||, and the slerp's and a mean's by less."""
    shape = (4, 64, 64)
    states = kept(shape=shape, apart=0.0)
    made = start(mode, folder, shape=shape, states=states)
    length = float(noise_of(made, states).norm()) / math.sqrt(math.prod(shape))
    beta = math.sqrt(sum(a**2 for a in weights())) / sum(weights())
    if made.fallback or mode in KEEPS_LENGTH or mode == "fresh":
        assert length == pytest.approx(1, abs=4 / math.sqrt(2 * math.prod(shape)))  # 4 sd of the mean of d squares, halved by the root
    elif mode == "mean":
        assert length == pytest.approx(beta, rel=0.05)
    else:
        assert beta < length < 0.95 or mode != "slerp"


def high(x_CHW):
    """Mean power of the highest fifth of frequencies."""
    _, H, W = x_CHW.shape
    radius = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.fftfreq(W)[None])
    return float(torch.fft.fft2(x_CHW, norm="ortho").abs().square()[:, radius >= 0.4].mean())


@EVERY
def test_the_bands_are_kept_while_things_move(mode, folder):
    """[5] Siblings whose blobs lie far apart. The noise of those that fuse noises is white. Of the high frequencies of a state, which
    are noise alone, the transports keep more than 4/5, although their noise is as long as all that is left of siblings besides the
    mean prediction; the slerp keeps less, and the mean, as is known, ||a||^2."""
    shape = (4, 64, 64)
    states = kept(shape=shape)
    made = start(mode, folder, shape=shape, states=states)
    assert made.fallback is None
    z = noise_of(made, states)
    if mode in ("innovation", "signed", "ensemble", "fresh"):
        assert normal(z)
    siblings = Siblings.of(work("slerp"), shape, states)
    mu, s = siblings.origin
    share = high(mu + s * z) / high(siblings.x_NCHW[0])
    assert (share > 0.8) == (mode not in ("mean", "slerp"))
    if mode == "mean":
        assert share == pytest.approx(sum(a**2 for a in weights()), abs=0.03)
    elif mode not in ("x0_transport", "features", "slerp"):
        assert 0.93 < share < 1.07


@pytest.mark.parametrize("mode", ["ensemble", "x0_transport", "features"])
def test_a_constant_and_a_scale_on_the_states_go_through(mode, folder):
    """[7] Each state plus c: a noise stays, a state gets c. Each state times 3: a noise stays, a state is 3 times as large."""
    ground = 0.1 * draw(["ground"], SHAPE)[0]  # without it tokens of the ground could as well change places
    states = {name: replace(state, x0=state.x0 + ground) for name, state in kept().items()}
    before = start(mode, folder, states=states)
    moved, far = ({name: replace(state, x0=state.x0 + by) for name, state in states.items()} for by in (0.7, 30.0))
    larger = {name: replace(state, x0=3 * state.x0, eps=3 * state.eps) for name, state in states.items()}
    shifted = [(moved, before.tensor + 0.7 * family.ALPHA), (far, before.tensor + 30 * family.ALPHA)]
    for changed, expected in (*shifted, (larger, 3 * before.tensor)):
        after = start(mode, folder, states=changed)
        torch.testing.assert_close(after.tensor, expected if before.whole else before.tensor, rtol=1e-4, atol=1e-4)


@EVERY
def test_particles_without_a_state_are_a_refusal_where_it_is_needed(mode, folder):
    states = kept()
    del states["b"]
    for known in (states, {}):
        made = start(mode, folder, states=known)
        assert (made is Refusal.GONE) == (mode in STATES)


@EVERY
def test_one_particle_alone_makes_no_node(mode, folder):
    """[1, 2, 17] Weights of one: a copy, for whoever fuses at all."""
    made = start(mode, folder, a=(0.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    assert (made is Refusal.COPY) == (mode != "fresh")


@pytest.mark.parametrize("mode", [mode for mode in family.MODES if mode != "fresh"])
def test_equal_particles_make_no_node(mode, folder, monkeypatch):
    """[3]"""
    one = kept(("a",))["a"]
    monkeypatch.setattr("mcts_ray.fusion.siblings.draw", lambda names, shape: draw(["a"] * len(names), shape))
    monkeypatch.setattr("mcts_ray.fusion.fuser.draw", lambda names, shape: draw(["a"] * len(names), shape))
    monkeypatch.setattr(Siblings, "origin", (family.ALPHA * family.blob(SHAPE, 0.5, 0.5), family.S))  # one noise tells nothing
    assert start(mode, folder, states=dict.fromkeys(NAMES, one)) is Refusal.COPY


@pytest.mark.parametrize("mode", sorted(STATES))
def test_half_precision_comes_in_as_it_is_and_is_fused_in_fp32(mode, folder):
    """[15]"""
    for dtype in (torch.float16, torch.bfloat16):
        states = kept(dtype=dtype)
        exact = {n: type(s)(s.level, s.x0.float(), s.eps.float(), s.alpha, s.sigma, features=s.features.float()) for n, s in states.items()}
        one, two = start(mode, folder, states=states), start(mode, folder, states=exact)
        assert one.tensor.dtype == torch.float32 and torch.equal(one.tensor, two.tensor)


@pytest.mark.parametrize("mode", ["x0_transport", "features"])
def test_where_hardly_a_token_moves_noises_are_fused_instead(mode, folder):
    states = kept(apart=0.0)
    made = start(mode, folder, states=states)
    assert made.fallback is Refusal.STILL and not made.whole
    torch.testing.assert_close(made.tensor, start("innovation", folder).tensor, rtol=1e-5, atol=1e-5)


def test_several_children_come_from_one_ensemble(folder):
    made = [start("ensemble", folder, draw=index) for index in range(6)]
    noises = [one.tensor for one in made if not isinstance(one, Refusal)]
    assert 1 < len(noises) < 6 and all(one is Refusal.COPY for one in made[len(noises) :])
    assert not any(torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])


def test_the_noise_of_the_particles_is_drawn_again_and_fused():
    expected = barycenter(draw(NAMES, SHAPE), torch.tensor(WEIGHTS))
    fused = fuse(NAMES, WEIGHTS, SHAPE)
    assert torch.equal(fused, expected) and fused.dtype == torch.float32 and fused.shape == SHAPE


def test_a_fresh_child_draws_from_its_own_id():
    assert torch.equal(fuse(NAMES, WEIGHTS, SHAPE, "fresh", "n"), draw(["n"], SHAPE)[0])


def test_refusals_come_back_as_they_are():
    assert fuse(NAMES, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), SHAPE) is Refusal.COPY
    assert fuse(NAMES, (0.0,) * 6, SHAPE) is Refusal.CANCELLED


def test_a_start_says_how_near_it_is_to_the_best_and_how_many_it_is_made_of(folder):
    """[17] Of innovation: cosine a_best / ||a|| but for rounding, since noises are orthogonal, nearly."""
    shape, a = (4, 64, 64), torch.tensor(weights())
    states = kept(shape=shape)
    for mode in family.MODES:
        made = start(mode, folder, shape=shape, states=states)
        if mode == "fresh":  # nothing of the siblings is in it
            assert made.ess is None and made.cosine is None
            continue
        siblings = Siblings.of(work("ensemble"), shape, states)
        own = column(siblings.x0_NCHW, siblings.a_N, 0) if mode == "ensemble" else torch.tensor(weights(mode))
        assert made.ess == pytest.approx(float(own.abs().sum() ** 2 / own.square().sum()), rel=1e-4)
        best = draw([NAMES[int(torch.tensor(weights(mode)).argmax())]], shape)[0]
        assert made.cosine == pytest.approx(float(torch.cosine_similarity(noise_of(made, states).flatten(), best.flatten(), 0)), abs=1e-4)
    assert start("innovation", folder, shape=shape).cosine == pytest.approx(float(a.max() / a.norm()), abs=0.03)


def test_the_actor_goes_on_where_one_unit_fails(folder, monkeypatch):
    def broken(z_NCHW, a_N):
        raise RuntimeError("broken")

    monkeypatch.setattr("mcts_ray.fusion.fuser.weighted_mean", broken)
    works = [replace(work(mode), id=mode) for mode in ("mean", "innovation")]
    said, starts = FusionWorker().fuse(works, SHAPE, [])
    assert set(said) == {"mean", "innovation"} and said["mean"] == "failed" and set(starts) == {"innovation"}
    assert said["innovation"] == start("innovation", folder).said and said["innovation"].fallback is None
    assert 0.5 < said["innovation"].cosine < 0.98 and 1.2 < said["innovation"].ess < 6


def test_the_network_of_a_mode_and_nothing_else_is_on_the_device_of_the_actor(folder, monkeypatch):
    """Here a device that computes nothing: what is asked of it fails, and only `decoder` asks."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    actor = FusionWorker("meta", ["3"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    works = [replace(work(mode, folder=folder), id=mode) for mode in MODES]
    monkeypatch.setattr("mcts_ray.actors.fusion._fetched", lambda works, refs: {"s": kept()})
    said, starts = actor.fuse(works, SHAPE, [])
    assert {mode for mode in MODES if said[mode] == "failed"} == {"decoder"} and len(starts) == len(MODES) - 1
    there, _ = FusionWorker("cpu").fuse(works, SHAPE, [])
    assert there["decoder"].ess > 1 and {mode: there[mode] for mode in starts} == {mode: said[mode] for mode in starts}


def test_an_error_is_a_refusal_and_logged(folder, caplog):
    """A decoder that cannot be read, states of different shapes."""
    assert start_of(work("decoder", folder=f"{folder}/none"), SHAPE, kept()) is Refusal.FAILED
    states = kept() | {"b": kept(shape=(4, 16, 16))["b"]}
    for mode in sorted(STATES):
        assert start(mode, folder, states=states) is Refusal.FAILED
    assert len(caplog.records) == 1 + len(STATES) and "fusion failed" in caplog.text


@pytest.mark.parametrize("mode", sorted(STATES))
def test_a_state_or_features_that_are_not_finite_are_a_refusal(mode, folder):
    """[14]"""
    for broken in ("x0", "eps", "features") if mode in FEATURES else ("x0", "eps"):
        states = kept()
        states["b"] = replace(states["b"], **{broken: torch.full_like(getattr(states["b"], broken), math.nan)})
        assert start(mode, folder, states=states) in (Refusal.FAILED, Refusal.CANCELLED)


@pytest.mark.parametrize("mode", sorted(STATES))
def test_states_that_no_noise_has_parted_are_a_refusal(mode, folder):
    """[6] s = 0."""
    one = kept()["a"]
    assert start(mode, folder, states=dict.fromkeys(NAMES, one)) is Refusal.NOISELESS


def test_log_snr_stays_finite():
    assert log_snr(0.8, 0.6) == pytest.approx(2 * math.log(0.8 / 0.6))
    assert log_snr(0.0, 1.0) == -20 and log_snr(1.0, 0.0) == 20
