"""Policies replayed on recorded scores, and the command that does it."""

import json
from itertools import combinations

import numpy as np
import pytest

from mcts_ray import cli
from mcts_ray.compare.figures import best_of
from mcts_ray.replay import Halving, Records, load, load_all, make_policy, replay


def records(prompts=6, samples=40, steps=20, noise=0.0, seed=0):
    """final is normal; every step score is final plus noise, at noise infinity a normal of its own."""
    rng = np.random.default_rng(seed)
    final = rng.standard_normal((prompts, samples))
    other = rng.standard_normal((prompts, samples, steps))
    scores = other if np.isinf(noise) else final[:, :, None] + noise * other
    return Records(scores, final, np.full(steps, 1 / steps))


def write(path, found, **more):
    np.savez(path, scores=found.scores_PNS, final=found.final_PN, **more)
    return path


def test_psp_is_the_mean_over_subsets_of_its_seeds():
    """Every subset of 4 of 9 samples played out; the draws agree within 4 of their standard errors (chance: 6e-5)."""
    found = records(3, 9, 18, noise=1.0)
    brute = []
    for scores, final in zip(found.scores_PNS, found.final_PN):
        for subset in combinations(range(9), 4):
            kept = sorted(subset, key=lambda i: -scores[i, 4])[:2]  # step ceil(18/4) = 5
            winner = max(kept, key=lambda i: scores[i, 8])  # step ceil(18/2) = 9; one of four is finished
            brute.append(final[winner])
    row = replay(found, "psp", [2])[0]
    assert 0 < row.error < 0.05 and abs(row.policy - np.mean(brute)) < 4 * row.error


def test_perfect_scores_make_psp_best_of_twice_the_seeds_and_useless_ones_of_half():
    perfect, useless = records(noise=0.0), records(60, noise=np.inf)
    for row in replay(perfect, "psp", [2, 4, 8]):
        exact = best_of(perfect.final_PN, perfect.final_PN, 2 * row.budget).mean()
        assert abs(row.policy - exact) < 4 * row.error and row.multiplier == pytest.approx(2, abs=0.3)
    row = replay(useless, "psp", [8])[0]
    half = best_of(useless.final_PN, useless.final_PN, 4).mean()
    assert abs(row.policy - half) < 0.25 and row.ci[1] < 0 and row.multiplier < 1


def test_best_of_n_is_itself():
    for row in replay(records(), "best-of-n"):
        assert (row.diff, row.ci, row.error) == (0.0, (0.0, 0.0), 0.0) and row.multiplier == pytest.approx(1.0)


def test_a_value_beyond_all_samples_has_no_multiplier():
    found = records(1, 4, 4)
    assert replay(found, "psp", [2])[0].multiplier == pytest.approx(2.0)
    from mcts_ray.replay import _multiplier

    assert _multiplier(9.0, np.array([0.0, 1.0]), 2) is None
    assert _multiplier(0.5, np.array([0.0, 1.0]), 2) == 0.75


def test_halving_begins_with_what_the_budget_pays_for():
    found = records(steps=20)
    assert make_policy("halving@0.25,0.5", 20) == Halving((5, 10)) and make_policy("psp", 20) == Halving((5, 10), True)
    assert Halving((5, 10)).seeds(8, found) == Halving((5, 10), True).seeds(8, found) == 16
    for cuts in ((5,), (2, 9, 15), (19,)):
        policy = Halving(cuts)
        seeds = policy.seeds(8, found)
        assert policy.cost(seeds, found) <= 8 + 1e-9 < policy.cost(seeds + 1, found)
    late = Records(found.scores_PNS, found.final_PN, np.r_[np.full(10, 0.09), np.full(10, 0.01)])
    assert Halving((10,)).seeds(8, late) < Halving((10,)).seeds(8, found)  # dear first calls: fewer seeds


def test_budgets_that_the_samples_cannot_pay_for_are_left_out():
    assert [row.budget for row in replay(records(samples=20), "psp")] == [2, 4, 8]
    assert [row.budget for row in replay(records(samples=20), "best-of-n")] == [2, 4, 8, 16]
    with pytest.raises(ValueError, match="3 samples of a prompt are too few to replay psp"):
        replay(records(samples=3), "psp")


def test_states_without_a_score_rank_last():
    found = records(steps=4)
    found.scores_PNS[:, ::2, :] = np.nan
    best = replay(found, "psp", [4])[0]
    assert best.policy > best_of(found.final_PN, found.final_PN, 2).mean()
    found.scores_PNS[0, :, 0] = np.nan
    with pytest.raises(ValueError, match="ranks by step 1, of which a prompt has no scores"):
        replay(found, "psp")


def test_the_command_prints_the_object_of_the_contract(tmp_path, capsys):
    file = write(tmp_path / "s.npz", records(noise=0.5), cost=np.ones(20))
    assert cli.run(["replay", "--scores", str(file), "--policy", "psp", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert not err and list(found) == ["policy", "prompts", "rows"] and (found["policy"], found["prompts"]) == ("psp", 6)
    assert [row["budget"] for row in found["rows"]] == [2, 4, 8, 16]
    for row in found["rows"]:
        assert list(row) == ["budget", "best_of_n", "policy", "diff", "ci", "multiplier", "error"]
        assert row["diff"] == pytest.approx(row["policy"] - row["best_of_n"]) and row["ci"][0] <= row["diff"] <= row["ci"][1]
    assert cli.run(["replay", "--scores", str(file), "--policy", "halving@0.5"]) == 0
    assert "best-of-n" in capsys.readouterr().out


def test_files_of_several_prompts_are_joined(tmp_path, capsys):
    parts = [records(2, 40), records(1, 30, seed=1)]
    files = [write(tmp_path / f"{i}.npz", part) for i, part in enumerate(parts)]
    joined = load_all(files)
    assert joined.scores_PNS.shape == (3, 30, 20)
    assert np.array_equal(joined.final_PN, np.concatenate([part.final_PN[:, :30] for part in parts]))
    assert cli.run(["replay", "--scores", str(files[0]), "--scores", str(files[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == 3
    longer = write(tmp_path / "longer.npz", records(1, 30, steps=10))
    assert cli.run(["replay", "--scores", str(files[0]), "--scores", str(longer)]) == 2
    assert "other steps or costs" in capsys.readouterr().err


BAD = {
    "no-file": ("there is no such", "cannot be read"),
    "text": (b"scores", "not an .npz file"),
    "final": (dict(scores=np.zeros((1, 4, 4))), "holds no array 'final'"),
    "shape": (dict(scores=np.zeros((1, 4, 4)), final=np.zeros((1, 5))), r"must hold scores \[prompt, sample, step\]"),
    "nan": (dict(scores=np.zeros((1, 4, 4)), final=np.full((1, 4), np.nan)), "not finite"),
    "cost": (dict(scores=np.zeros((1, 4, 4)), final=np.zeros((1, 4)), cost=np.zeros(4)), "positive cost for each of its 4"),
    "words": (dict(scores=np.array([["a"]]), final=np.zeros((1, 4))), "not an .npz file of numbers"),
    "objects": (dict(scores=np.array([{}]), final=np.zeros((1, 4))), "not an .npz file of numbers"),
}


@pytest.mark.parametrize("content, sentence", BAD.values(), ids=BAD)
def test_bad_files_are_the_users_mistake(tmp_path, capsys, content, sentence):
    file = tmp_path / "s.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(file, **content)
    with pytest.raises(ValueError, match=sentence):
        load(file)
    assert cli.run(["replay", "--scores", str(file), "--policy", "psp"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["nothing", "halving", "halving@", "halving@0.5,x", "halving@1.5", "halving@nan"])
def test_unknown_policies_are_the_users_mistake(tmp_path, capsys, name):
    file = write(tmp_path / "s.npz", records())
    assert cli.run(["replay", "--scores", str(file), "--policy", name]) == 2
    assert f"unknown policy '{name}'" in capsys.readouterr().err
