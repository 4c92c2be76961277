import dataclasses

import pytest
import torch

from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import jump
from mcts_ray.diffusion.noise import draw
from mcts_ray.executor.redo import redo
from mcts_ray.search.base import Edge, Work
from mcts_ray.search.lineage import Again
from tests.diffusion.walks import SHAPE, run, seed_walk, setting

KINDS = [
    setting("a red circle", guidance=3.0, levels=10),
    setting("blue ring", guidance=1.0, levels=7, negative_prompt="green"),
    setting("a cross", guidance=6.0, levels=6, grid="ays"),
    setting("a cross", guidance=2.0, levels=9, order=2),
]


def mixed_works():
    """Thirteen walks of three searches: different T, jumps, phi, prompts, guidance and order."""
    works = []
    for i in range(13):
        kind, k = KINDS[i % 4], 1 + i % 3
        levels = [*range(kind.levels, 0, -k), 0]
        works.append(seed_walk(f"w{i}", kind, levels, lambda a, s, i=i: 0.25 * (i % 3), search=f"s{i % 3}"))
    return works


def test_mixed_slots_equal_one_by_one(denoiser):
    works = mixed_works()
    together = run(Engine(denoiser, batch_size=5), works)
    for work in works:
        alone = run(Engine(denoiser, batch_size=5), [work])[work.id]
        scale = alone.latent.abs().max()
        torch.testing.assert_close(together[work.id].latent / scale, alone.latent / scale, atol=1e-5, rtol=0)
        assert (alone.nfe, alone.forwards) == (together[work.id].nfe, together[work.id].forwards)


def test_costs(denoiser):
    works = mixed_works()
    engine = Engine(denoiser, batch_size=5)
    walked = run(engine, works)
    assert len(walked) == len(works) and engine.idle
    for each in walked.values():
        assert each.error is None and each.nfe == each.work.nfe
        assert each.forwards == each.nfe * (2 if each.work.setting.guidance > 1 else 1)
        assert each.seconds > 0
    rate = [each.seconds / each.forwards for each in run(Engine(denoiser, 2), [seed_walk("a", KINDS[0]), seed_walk("b", KINDS[0])]).values()]
    assert rate[0] == pytest.approx(rate[1])  # equal shares of the same calls


def test_slots_are_refilled_in_submission_order(denoiser):
    engine = Engine(denoiser, batch_size=2)
    lengths = [4, 2, 3, 1]  # NFE of each walk
    works = [seed_walk(f"w{i}", setting(levels=10), [10, *range(n - 1, 0, -1), 0]) for i, n in enumerate(lengths)]
    engine.submit(works)
    assert engine.free == 0 and not engine.idle
    ended = []
    while not engine.idle:
        ended.append([each.work.id for each in engine.step()])
    assert ended == [[], ["w1"], [], ["w0"], ["w2", "w3"]]
    assert engine.free == 2 and engine.step() == []


def test_same_submissions_give_the_same_bits(denoiser):
    first, second = (run(Engine(denoiser, batch_size=4), mixed_works()) for _ in range(2))
    assert list(first) == list(second)
    assert all(torch.equal(first[name].latent, second[name].latent) for name in first)


def test_tree_work_from_kept_nodes(denoiser):
    """Seed, expansion by one edge, and a roll-out equal the arithmetic done by hand."""
    engine = Engine(denoiser)
    shared = setting()
    assert len(engine.store) == 0
    seed = Work("w0", "s", shared, None, "seed", (Edge("root", 10),), keep=("root",))
    walked = run(engine, [seed])["w0"]
    assert (walked.latent, walked.nfe, len(engine.store)) == (None, 1, 1)
    child = Work("w1", "s", shared, "root", "jump", (Edge("child", 6, 0.4),), keep=("child",))
    assert run(engine, [child])["w1"].latent is None
    root = engine.store.get("s", "root")
    levels = denoiser.levels(10)
    x = jump(root.x0[None], root.eps[None], levels.alpha_L[[6]], levels.sigma_L[[6]], torch.tensor([0.4]), draw(["child"], SHAPE))
    expected = denoiser.denoise(x, [6], [shared])
    kept = engine.store.get("s", "child")
    assert kept.level == 6
    torch.testing.assert_close(kept.x0, expected.x0[0], atol=1e-5, rtol=1e-5)
    end = run(engine, [Work("w2", "s", shared, "child", "jump", (Edge("leaf", 0),))])["w2"]
    assert (end.nfe, end.forwards, end.seconds) == (0, 0, 0.0)  # a child at level 0 costs no call
    torch.testing.assert_close(end.latent, levels.alpha_L[0] * kept.x0 + levels.sigma_L[0] * kept.eps)


def test_terminal_children_need_no_slot(denoiser):
    engine = Engine(denoiser, batch_size=2)
    shared = setting()
    run(engine, [Work("w", "s", shared, None, "seed", (Edge("root", 10),), keep=("root",))])
    engine.submit(Work(f"t{i}", "s", shared, "root", "jump", (Edge(f"leaf{i}", 0, 0.5),)) for i in range(5))
    engine.submit([seed_walk("x", shared)])
    assert [each.work.id for each in engine.step()] == [f"t{i}" for i in range(5)]


def test_a_faulty_unit_fails_alone(denoiser):
    engine = Engine(denoiser)
    good = seed_walk("good", setting(), keep=("good/5",))
    faults = {
        "orphan": Work("orphan", "search", setting(), "nowhere", "jump", (Edge("n", 3),)),
        "stranger": Work("stranger", "other", setting(), "good/5", "jump", (Edge("n", 3),)),
        "upward": seed_walk("upward", setting(), [10, 4, 7, 0]),
        "late": seed_walk("late", setting(), [9, 4, 0]),
    }
    walked = run(engine, [good, *faults.values()])
    assert walked["good"].error is None
    assert "parent nowhere is not kept" in walked["orphan"].error and "not kept" in walked["stranger"].error
    assert "must descend" in walked["upward"].error and "starts at level 10" in walked["late"].error
    assert all(walked[name].latent is None and walked[name].nfe == 0 for name in faults)
    again = run(engine, [Work("up", "search", setting(), "good/5", "jump", (Edge("n", 5),))])
    assert "must descend" in again["up"].error


def test_a_non_finite_prediction_fails_its_unit(denoiser, monkeypatch):
    works = [seed_walk(f"w{i}", setting(f"p{i}", guidance=1.0)) for i in range(3)]
    clean = run(Engine(denoiser), works)
    denoise = denoiser.denoise

    def broken(x, level_B, settings, *args):
        prediction = denoise(x, level_B, settings, *args)
        for b, each in enumerate(settings):
            if each.prompt == "p1" and level_B[b] == 4:
                prediction.x0[b, 0, 0, 0] = float("nan")
        return prediction

    monkeypatch.setattr(denoiser, "denoise", broken)
    walked = run(Engine(denoiser), works)
    assert walked["w1"].latent is None and "non-finite prediction at level 4" in walked["w1"].error
    assert walked["w1"].nfe == 7  # levels 10 to 4 are paid for
    for name in ("w0", "w2"):
        torch.testing.assert_close(walked[name].latent, clean[name].latent, atol=1e-4, rtol=1e-5)


def test_image_sizes_take_turns(denoiser):
    engine = Engine(denoiser, batch_size=4)
    small, wide = setting(levels=3), setting(levels=3, width=48)
    engine.submit([seed_walk("a", small), seed_walk("b", wide), seed_walk("c", small)])
    order = []
    while not engine.idle:
        order += [(each.work.id, tuple(each.latent.shape)) for each in engine.step()]
    assert order == [("a", (4, 8, 8)), ("c", (4, 8, 8)), ("b", (4, 8, 12))]


def test_dropping_a_search(denoiser):
    engine = Engine(denoiser, batch_size=3)
    works = [seed_walk(f"{s}{i}", setting(), search=s, keep=(f"{s}{i}/10",)) for i in range(2) for s in "ab"]
    expected = run(Engine(denoiser, batch_size=3), works)
    engine.submit(works)
    engine.step()
    assert len(engine.store) == 3
    engine.drop("a")
    assert len(engine.store) == 1 and engine.store.get("a", "a0/10") is None
    rest = run(engine, [])
    assert set(rest) == {"b0", "b1"}
    for name, each in rest.items():
        torch.testing.assert_close(each.latent, expected[name].latent, atol=1e-4, rtol=1e-5)
    engine.drop("b")
    assert len(engine.store) == 0


def test_impossible_settings_are_refused_at_submission(denoiser):
    engine = Engine(denoiser)
    for bad, sentence in ((setting(height=30), "multiples of 4"), (setting(levels=1000), "fewer levels"), (setting(grid="x"), "unknown grid")):
        with pytest.raises(ValueError, match=sentence):
            engine.submit([dataclasses.replace(seed_walk("w", setting()), setting=bad)])
    with pytest.raises(ValueError, match="batch size"):
        Engine(denoiser, batch_size=0)
    assert engine.idle


def test_scored_nodes_bring_their_predicted_x0(denoiser):
    """It is what a kept state holds, whatever else is in the batch, and it costs no call."""
    work = seed_walk("w", setting(), keep=("w/7", "w/2"), scored=("w/7", "w/2"))
    ended = seed_walk("v", setting(), [10, 9], keep=("v/9",), scored=("v/9",))
    engine = Engine(denoiser, batch_size=3)
    walked = run(engine, [work, ended, seed_walk("u", setting(guidance=1.0))])
    assert [torch.equal(x0, engine.store.get("search", n).x0) for x0, n in zip(walked["w"].x0s, ("w/7", "w/2"))] == [True] * 2
    assert torch.equal(walked["v"].x0s[0], engine.store.get("search", "v/9").x0) and walked["v"].latent is None
    assert walked["u"].x0s == () and len(walked["w"].to_decode) == 3 and len(walked["v"].to_decode) == 1
    assert (walked["w"].nfe, walked["v"].nfe) == (10, 2)


def test_a_walk_may_start_from_a_state_made_elsewhere(denoiser):
    """It is evaluated as it is, at the level of its first edge, whoever its parent is; its moves are first order at the start."""
    (state,) = draw(["made"], SHAPE)
    for parent in (None, "nobody"):
        kind = setting(order=2)
        edges = (Edge("m", 6, 0.5), *(Edge(f"m/{s}", s) for s in range(5, -1, -1)))
        engine = Engine(denoiser, batch_size=3)
        engine.submit([seed_walk("w", kind), Work("m", "search", kind, parent, "fuse", edges, ("m",))], {}, {"m": state})
        walked = {each.work.id: each for _ in range(10) for each in engine.step()}
        kept = engine.store.get("search", "m")
        assert walked["m"].nfe == 6 and walked["m"].error is None and kept.level == 6 and kept.m1 is None
        torch.testing.assert_close(kept.alpha * kept.x0 + kept.sigma * kept.eps, state, rtol=1e-5, atol=1e-5)
        exact = denoiser.denoise(state[None], [6], [kind])
        torch.testing.assert_close(kept.x0, exact.x0[0], rtol=1e-4, atol=1e-4)


def test_kept_states_carry_the_features_of_the_tap_that_was_asked_for(denoiser):
    tapped, plain = seed_walk("t", setting(tap="up.0"), keep=("t/7",)), seed_walk("p", setting(), keep=("p/7",), search="other")
    engine = Engine(denoiser, batch_size=2)
    run(engine, [tapped, plain])
    kept = engine.store.get("search", "t/7")
    x = kept.alpha * kept.x0 + kept.sigma * kept.eps
    exact = denoiser.denoise(x[None], [7], [setting()], taps=("up.0",)).taps["up.0"][0]
    torch.testing.assert_close(kept.features, exact, rtol=1e-3, atol=1e-3)
    assert engine.store.get("other", "p/7").features is None


def test_maps_of_features_are_kept_small():
    from mcts_ray.diffusion.lane import _small

    assert _small(torch.ones(5, 32, 40)).shape == (5, 16, 16) and _small(torch.ones(5, 8, 20)).shape == (5, 8, 16)


@pytest.mark.parametrize("full", [6, 8])
def test_calls_are_filled_up_to_buckets_and_nothing_else_changes(denoiser, monkeypatch, full):
    """Mixed guidance, kept states with features and all: the network sees powers of two and the full sizes alone."""
    works = [*mixed_works(), seed_walk("t", setting(tap="up.0"), keep=("t/7",), scored=("t/7",))]
    seen, forward = [], denoiser.adapter.forward
    monkeypatch.setattr(denoiser.adapter, "forward", lambda x, *args: seen.append(len(x)) or forward(x, *args))
    plain, filled = Engine(denoiser, full, buckets=False), Engine(denoiser, full, buckets=True)
    expected = run(plain, works)
    assert set(seen) - {1, 2, 4, 8, full, 16, 2 * full}
    seen.clear()
    walked = run(filled, works)
    assert set(seen) <= {1, 2, 4, 8, full, 16, 2 * full} and max(seen) <= 2 * full
    assert list(walked) == list(expected) and filled.nfe == plain.nfe and filled.spent == plain.spent
    for name, one in walked.items():
        assert (one.nfe, one.forwards, one.error) == (expected[name].nfe, expected[name].forwards, None)
        scale = expected[name].latent.abs().max()
        torch.testing.assert_close(one.latent / scale, expected[name].latent / scale, atol=1e-5, rtol=0)
    kept = [engine.store.get("search", "t/7") for engine in (plain, filled)]
    torch.testing.assert_close(kept[0].features, kept[1].features, atol=1e-4, rtol=1e-4)
    assert Engine(denoiser).buckets is False  # on a CPU filling up costs time


def test_what_is_walked_again_in_buckets_is_the_same(denoiser):
    """Calls of five that were filled up to eight; one of the five is walked again alone."""
    works = [seed_walk(f"w{i}", setting(f"p{i}"), keep=(f"w{i}/4",)) for i in range(5)]
    engine = Engine(denoiser, 8, buckets=True)
    walked = run(engine, works)
    kept = engine.store.get("search", "w2/4")
    engine.store.forget("search", ["w2/4"])
    (again,) = redo(engine, [[Again(works[2], (5,) * 10)]])
    assert torch.equal(engine.store.get("search", "w2/4").x0, kept.x0) and torch.equal(again.latent, walked["w2"].latent)


def test_each_shape_has_batches_of_its_own_size(denoiser, monkeypatch):
    engine, seen = Engine(denoiser, batch_size=4), []
    engine.sizes = {(4, 8, 12): 2}
    denoise = denoiser.denoise
    monkeypatch.setattr(denoiser, "denoise", lambda x, *args: seen.append((x.shape[-1], len(x))) or denoise(x, *args))
    works = [seed_walk(f"{width}/{i}", setting(levels=2, width=width)) for width in (32, 48) for i in range(4)]
    assert len(run(engine, works)) == 8
    assert set(seen) == {(8, 4), (12, 2)}
