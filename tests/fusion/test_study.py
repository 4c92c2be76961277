"""What the study of fusion makes of its rows; no model."""

import json

import numpy as np
import pytest
import torch

from benchmarks import fusion_lab, fusion_study
from benchmarks.fusion_lab import Lab, Remembering, groups, parents, steps
from mcts_ray.tree.weights import Refusal

IMAGE = {"gold": 0.5, "guide": 0.1, "pass": 0.0, "band": 0.3, "certainty": None}


def row(prompt, refused=None, fallback=None, **gold):
    """Of stage 1: one image for each arm."""
    arms = {arm: [{**IMAGE, "gold": value}] for arm, value in gold.items()}
    return {"prompt": prompt, "level": 26, "arms": arms, "modes": {"signed": {"refused": refused, "fallback": fallback}}}


def test_intervals_resample_prompts_and_not_rows():
    """Forty rows of two prompts know as much as two prompts do."""
    value = np.array([0.0, 1.0] * 20)
    mean, low, high = fusion_study.resampled(["a", "b"] * 20, value)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    _, low, high = fusion_study.resampled([str(i) for i in range(40)], value)
    assert 0.3 < low < 0.45 and 0.55 < high < 0.7


def test_ratios_and_unknown_values():
    assert fusion_study.resampled(["a", "b"], np.array([1.0, 3.0]), np.array([4.0, 4.0]))[0] == 0.5
    assert fusion_study.resampled(["a", "b"], np.array([1.0, np.nan]))[0] == 1
    assert fusion_study.resampled(["a"], np.array([np.nan])) is None


def test_refusals_and_fallbacks_are_counted_and_left_out_of_what_was_asked():
    rows = [
        row("a", fresh=0.2, best=0.3, signed=0.6),
        row("b", fresh=0.2, best=0.3, refused="flat"),
        row("c", fallback="still", fresh=0.2, best=0.3, signed=0.1),
    ]
    found = fusion_study.completed(rows, ["signed"])["signed"]
    assert found["refused"] == {"flat": 1} and found["refused_share"] == 0.3333 and found["fell_back"] == 0.5
    assert found["gold_over_fresh"][0] == pytest.approx((0.4 + 0 - 0.1) / 3, abs=1e-4)
    assert found["as_asked"]["fused"] == 1 and found["as_asked"]["gold_over_fresh"][0] == pytest.approx(0.4)
    assert found["band_over_fresh"][0] == 0 and found["certainty_over_fresh"] is None


def test_one_step_tells_fallbacks_apart():
    rewards = [0.0, 0.0, 1.0, 1.0]
    modes = [{"reward": 1.5, "promised": 1.0, "fallback": None}, {"reward": 0.5, "promised": 1.0, "fallback": "still"}, {"refused": "flat"}]
    rows = [{"prompt": str(i), "level": 26, "rewards": rewards, "fresh": 0.5, "modes": {"signed": mode}} for i, mode in enumerate(modes)]
    found = fusion_study.one_step(rows, ["signed"])["signed"]
    assert (found["fused"], found["refused"], found["fell_back"]) == (2, {"flat": 1}, 0.5)
    assert found["over_fresh"][0] == 1 and found["as_asked"]["over_fresh"][0] == 2
    assert found["kappa"][0] == 0.5 and found["as_asked"]["kappa"][0] == 1


@pytest.mark.parametrize("low, ships, mode", [(0.01, "on", "signed"), (-0.01, "off", None)])
def test_the_verdict_wants_the_whole_interval_above_a_fresh_child(low, ships, mode):
    table = {"signed": {"gold_over_fresh": (0.03, low, 0.06)}, "mean": {"gold_over_fresh": (0.5, 0.4, 0.6)}}
    found = fusion_study.verdict(table, ["signed", "mean"], ["gold_over_fresh"])  # a control never ships
    assert (found["ships"], found["mode"]) == (ships, mode) and "gold_over_fresh +0.0300" in found["why"]


def test_a_verdict_of_searches_wants_both():
    table = {
        "signed": {"gold_over_fresh": (0.03, 0.01, 0.06), "gold_difference": (0.02, -0.01, 0.05)},
        "ensemble": {"gold_over_fresh": (0.02, 0.01, 0.06), "gold_difference": (0.02, 0.01, 0.05)},
    }
    assert fusion_study.verdict(table, list(table), ["gold_over_fresh", "gold_difference"])["mode"] == "ensemble"


def test_the_modes_of_searches_are_the_best_two_of_completions():
    table = {mode: {"gold_over_fresh": (gold, 0, 0)} for mode, gold in (("innovation", 0.1), ("signed", 0.3), ("ensemble", 0.2))}
    finished = {"jump": 2, "modes": list(table), "all": table}
    assert fusion_study.best_modes(finished, {"jump": 2}) == ["signed", "ensemble"]
    with pytest.raises(ValueError, match="no results yet; run it first, or name --modes"):
        fusion_study.best_modes(None, {})
    with pytest.raises(ValueError, match="another jump than this stage's"):
        fusion_study.best_modes(finished, {"jump": 1})


def test_the_mean_is_no_low_frequency():
    wave = torch.cos(torch.pi * torch.arange(8)).expand(1, 4, 8, 8)
    assert fusion_study.high_band(wave + 100)[0] == pytest.approx(1, abs=1e-3)
    slow = torch.cos(torch.pi * torch.arange(8) / 4).expand(1, 4, 8, 8)
    assert fusion_study.high_band(slow + wave)[0] == pytest.approx(2 / 3, abs=1e-3)


def test_jumps_lead_to_the_end():
    assert steps(24, 2)[:2] == [22, 20] and steps(24, 2)[-2:] == [2, 0] and steps(8, 5) == [3, 0] and steps(3, 4) == [0]


def test_groups_are_made_once_and_only_for_one_design(tmp_path):
    made = []

    def make(items):
        made.append(items)
        return [{"item": item} for item in items]

    for _ in range(2):
        assert [one["item"] for one in groups(tmp_path, {"stage": 0}, [1, 2, 3], 2, make)] == [1, 2, 3]
    assert made == [[1, 2], [3]]
    with pytest.raises(ValueError, match="another design; choose another folder with --out"):
        groups(tmp_path, {"stage": 1}, [1], 2, make)


def test_an_image_remembers_its_latent():
    class Adapter:
        device, scale_factor = torch.device("cpu"), 1

        def decode(self, latent_NCHW):
            return latent_NCHW[:, :3].clamp(-1, 1)

    latents = torch.linspace(-1, 1, 32).reshape(2, 4, 2, 2)
    decoder = Remembering(Adapter())
    images = decoder.decode(latents)
    assert torch.equal(decoder.latents[images[1].tobytes()], latents[1])


def test_a_mode_that_is_left_out_is_said(capsys):
    lab = object.__new__(Lab)
    lab.folder = None
    assert lab.known(["signed", "decoder"]) == ["signed"]
    assert "left out: decoder, for want of a network" in capsys.readouterr().out


def test_rows_hold_words_that_json_knows():
    assert json.loads(json.dumps(fusion_study._said(Refusal.FLAT, None))) == {"refused": "flat"}
    assert len({parent.name for parent in parents(50)}) == 50 and {parent.level for parent in parents(50)} == set(fusion_lab.LEVELS)
