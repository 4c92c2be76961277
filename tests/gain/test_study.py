"""The study of chosen jumps: its arms, what its data are made like, and what it says of rules."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import gain
from mcts_ray.compare.design import parse_arm
from mcts_ray.gain.data import Recorded
from mcts_ray.gain.folder import Config
from mcts_ray.gain.learn import Examples
from mcts_ray.gain.measure import fair, quality
from mcts_ray.settings import make_config


def test_arms_are_searches_of_every_kind(trained):
    arms = [parse_arm(gain.priced(arm, 0.00123)) for arm in gain.arms(str(trained))]
    configs = [make_config({"levels": 8, **arm.fields, "algorithm": arm.algorithm, "budget": 64}, arm.label) for arm in arms]
    by_ige = [one for one in configs if one.jump == "ige"]
    assert [one.k for one in configs if one.jump == "constant"] == [1, 2, 4, 8] and {"ays", "table"} < {one.jump for one in configs}
    assert {one.ige_target for one in by_ige} == {"reward_rate", "similarity", "jump_error", "value"}
    assert [one.ige_choice for one in by_ige if one.ige_online] == ["top-m"] and {"greedy", "sample"} < {one.ige_choice for one in by_ige}
    assert {one.price for one in by_ige} == {0.00123} and {one.price for one in configs if one.jump != "ige"} == {None}
    assert gain.priced("mcts,jump=ige,price=1", 0.5) == "mcts,jump=ige,price=1"


def test_data_are_made_as_those_of_training(trained, transitions, monkeypatch, tmp_path):
    """A trunk, another guidance and other step scores would make features and targets that the IGE has not learned."""
    asked = {}
    monkeypatch.setattr(gain.collect, "run", lambda *places, **options: asked.update(options, places=places))
    monkeypatch.setattr(gain, "Recorded", lambda folder: folder)
    config = Config.read(trained)
    reader, data = {"kind": "value", "source": "head"}, {**config.data, "guidance": 2.5, "step_reward": "lrm", "step_model": "there"}
    gain.collected(replace(config, reader=reader, data=data), tmp_path, 2, 0.9)
    assert (asked["guidance"], asked["step_reward"], asked["step_model"], asked["trunk"]) == (2.5, "lrm", "there", "head")
    assert asked["places"][:2] == (config.model, "jpeg") and len(asked["places"][2]) == 4
    assert asked["scale"].jumps == config.jumps and asked["scale"].phi == 0.9 and (asked["levels"], asked["grid"]) == (8, "native")
    gain.collected(config, tmp_path, 2, 0.9)
    assert asked["trunk"] is None and asked["guidance"] == 2.0


def test_prices_are_slopes_at_each_budget(trained, monkeypatch):
    rng = np.random.default_rng(0)
    pool = {name: gain.argparse.Namespace(guide_PN=rng.random((3, 16), np.float32)) for name in ("easy", "medium", "hard")}
    monkeypatch.setattr(gain, "load_pool", lambda split: pool if split == "validation" else None)
    found = gain.slopes(Config.read(trained), (4, 8))
    both = np.concatenate([pool["medium"].guide_PN, pool["hard"].guide_PN]).astype(float)
    assert found == pytest.approx({4: gain.best_of_n_slope(both, 8, 32), 8: gain.best_of_n_slope(both, 8, 64)}) and found[4] > found[8] > 0


def test_rules_are_judged_and_targets_predicted_on_the_new_states(trained, transitions):
    """An IGE that predicts the very means of the recorded children has rank 1 and no regret that another rule has not."""
    config, known = Config.read(trained), Recorded(transitions)
    states = known.transitions
    targets = gain.targets_of(config, states)
    assert targets["value"].shape[2] == states.reward.shape[2] - 1
    examples = Examples(torch.from_numpy(known.features), states.level, targets)
    exact_NKM = np.stack([targets[name].nanmean(2).numpy().astype(float) for name in config.targets], 2)
    found = quality(exact_NKM, config, examples)
    assert found["value"]["all"]["r2"] == pytest.approx(1) and found["value"]["all"]["spearman"] == pytest.approx(1)
    judged, rows = fair(states, config.jumps)
    assert 0 < len(rows) < len(states)
    found = gain.judgement(config, exact_NKM[rows], judged, 0.01)
    rules = found["rules"]
    assert set(rules) == {*(f"ige {name}" for name in config.targets), "table", "k=1", "k=2", "k=4", "k=8"}
    assert set(rules["ige value"]["difference"]) == {"table", found["best_constant"]} and found["best_constant"].startswith("k=")
    assert rules["ige value"]["regret"][0] <= min(rules[name]["regret"][0] for name in ("table", "k=1", "k=2", "k=4", "k=8")) + 1e-3
    assert all(1 <= rules[name]["k"] < 8 for name in ("ige value", "table", "k=8"))
