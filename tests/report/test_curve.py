"""The anytime curve."""

import re

import pytest

from mcts_ray import Candidate
from mcts_ray.report.curve import curve, ticks, whole_ticks


def candidates(*rewards):
    return [Candidate(f"{i:032x}", reward, 10 * (i + 1), float(i)) for i, reward in enumerate(rewards)]


def test_a_dot_for_every_image_and_one_step_for_every_improvement():
    svg = curve(candidates(0.5, 0.2, 0.7, 0.6), 60, "jpeg")
    assert svg.count("<circle") == 4 and svg.count('class="top"') == 2
    (path,) = re.findall(r'class="best" d="([^"]*)"', svg)
    heights = [float(y) for y in re.findall(r"V([\d.]+)", path)]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 2
    assert "reward 0.7000\nbest so far 0.7000\n30 NFE, 2.0 s" in svg


@pytest.mark.parametrize("rewards", [(0.0,), (0.3, 0.3), (-1e9, 1e9), (0.1 + 0.2, 0.3), (-2.0, -1.0), (21.4, 21.40001)])
def test_any_range_has_labels(rewards):
    labels = re.findall(r'class="tick left"[^>]*>([^<]*)<', curve(candidates(*rewards), 20, "jpeg"))
    assert 2 <= len(set(labels)) == len(labels) <= 8 and "-0" not in labels


def test_the_name_of_the_reward_is_escaped():
    assert "&lt;b&gt;" in curve(candidates(1.0), 10, "<b>")


def test_ticks():
    assert ticks(0, 30, 6) == [0, 5, 10, 15, 20, 25, 30]
    assert ticks(-0.3, 0.5, 4) == pytest.approx([-0.2, 0, 0.2, 0.4])
    assert whole_ticks(4) == [0, 1, 2, 3, 4] and whole_ticks(1) == [0, 1]
    assert whole_ticks(1000) == list(range(0, 1001, 100))
