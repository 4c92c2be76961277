"""Which pools a comparison draws, and what is in them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcts_ray import Searcher
from mcts_ray.compare import pool
from mcts_ray.compare.design import Design, parse_arm, parse_policy, step_key
from mcts_ray.compare.pool import Pool, pools
from mcts_ray.compare.request import make_comparison
from mcts_ray.gain.folder import Config
from mcts_ray.reward import resolve_reward
from tests.gain.conftest import scale, trained, transitions  # noqa: F401  (fixtures: an IGE for the tiny pipeline)

POLICIES = ("k=1", "k=2", "k=5")
GOLD = {"k=1": 0.2, "k=2": 0.4, "k=5": 0.6}


@pytest.mark.parametrize(
    "validation, expected",
    [({"made": ["a disc"]}, ["k=1", "k=5"]), ({}, list(POLICIES))],
)
def test_of_the_prompts_compared_only_the_policies_that_matter_are_drawn(tmp_path, monkeypatch, validation, expected):
    """The first one, and the best on validation prompts; all where there are none."""
    design = Design(
        (parse_arm("psp"),), (8,), 1, 10, {"made": ["a ring"]}, "scenes", "", "scenes", "verifier",
        pool=4, policies=tuple(map(parse_policy, POLICIES)), validation=validation,
    )  # fmt: skip

    def sampled(design, searcher, guide, gold, folder, label, texts, policy, report):
        scores = np.full((1, 4), GOLD[policy.label])
        return Pool(policy.label, 10, scores, scores)

    monkeypatch.setattr(pool, "_pool", sampled)
    main, held_out = pools(design, None, None, None, tmp_path)
    assert [one.policy for one in main["made"]] == expected
    assert [one.policy for one in held_out.get("made", [])] == (list(POLICIES) if validation else [])


def _comparison(tiny_folder, out, policy, levels=8):
    world = dict(model=str(tiny_folder), reward="jpeg", gold=f"{__name__}:bright", prompts_file=Path("prompts.txt"), device="cpu")
    size = dict(levels=levels, times="1", seeds=1, pool=3, policies=[policy], pools=Path("pools"), executor="local")
    return make_comparison(["best-of-n"], out=out, **world, **size)


def bright(images, prompts):
    return images.mean((1, 2, 3))


@pytest.fixture
def drawn(tiny_folder, tmp_path, monkeypatch):
    """The pool of a policy on one prompt, and the searches that it took."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a photo of a bench\n")
    found, many = [], Searcher.many
    monkeypatch.setattr(Searcher, "many", lambda *args: found.append(many(*args)) or found[-1])

    def draw(policy, levels=8):
        design = _comparison(tiny_folder, Path("c"), policy, levels).design
        judge = resolve_reward(f"{__name__}:bright")
        with Searcher.from_pretrained(str(tiny_folder), "cpu", executor="local") as searcher:
            main, _ = pools(design, searcher, judge, judge, Path("pools"))
        results, found[:] = [one for group in found for one in group], []
        return main["prompts"][0], results

    return draw


@pytest.fixture
def ige(request, tmp_path):
    """A copy of the IGE for the tiny pipeline."""
    return shutil.copytree(request.getfixturevalue("trained"), tmp_path / "ige")


def _set_table(folder, sizes):
    replace(Config.read(folder), table=sizes).write(folder)


def test_a_pool_by_the_table_of_an_ige_holds_fair_samples(drawn, ige):
    """Not the best of the many more that cheap trajectories leave budget for; and each table has a pool of its own."""
    _set_table(ige, (1, 2, 2, 4, 4, 4, 4, 4))
    one, (result,) = drawn(f"jump=ige,ige_model={ige}")
    assert one.cost == 2 and one.gold_PN.shape == (1, 3) and result.ledger.nfe == 6 and len(result.finished) == 3
    images = dict(zip((c.node for c in result.candidates), result.images))
    assert one.gold_PN[0].tolist() == [np.asarray(images[c.node]).mean() for c in result.finished]
    assert drawn(f"jump=ige,ige_model={ige}")[1] == []
    _set_table(ige, (1, 2, 2, 4, 4, 4, 4, 8))
    other, (result,) = drawn(f"jump=ige,ige_model={ige}")
    assert (other.cost, result.ledger.nfe) == (1, 3)


def test_a_pool_by_ays_whose_levels_coincide_costs_what_it_costs(drawn):
    one, (result,) = drawn("jump=ays", levels=10)
    assert one.cost * 3 == result.ledger.nfe < 30 and len(result.finished) == 3


@pytest.mark.parametrize("arms, policy", [(["best-of-n"], "jump=ige,ige_model={}"), (["mcts,jump=ige,ige_model={}"], "k=1")])
def test_another_ige_is_another_comparison(tiny_folder, tmp_path, monkeypatch, ige, arms, policy):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a photo of a bench\n")
    design = _comparison(tiny_folder, Path("c"), policy.format(ige)).design
    design = replace(design, arms=tuple(parse_arm(arm.format(ige)) for arm in arms))
    before = step_key(design)
    _set_table(ige, (1,) * 8)
    table = step_key(design)
    (ige / "model.safetensors").write_bytes(b"other weights")
    assert len({before, table, step_key(design)}) == 3
