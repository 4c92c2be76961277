"""Batches made in the background."""

import threading

import pytest

from mcts_ray.fitting.ahead import Ahead


def test_the_next_one_is_made_before_it_is_asked_for():
    made, there = [], threading.Event()

    def make(number):
        made.append((number, threading.current_thread() is threading.main_thread()))
        if number == 1:
            there.set()
        return number * 10

    ahead = Ahead(make)
    assert ahead(0) == 0
    assert there.wait(10)
    assert ahead(1) == 10
    ahead(2)
    assert [number for number, _ in made[:3]] == [0, 1, 2] and not any(here for _, here in made)


def test_those_before_are_kept_as_long_as_asked_for():
    made = []
    ahead = Ahead(lambda number: made.append(number) or object(), kept=2)
    first, second = ahead(5), ahead(6)
    assert ahead(7) is not ahead(6) and ahead(6) is second and ahead(5) is first
    ahead(8)
    ahead(5)  # farther back than two
    assert made.count(5) == 2 and made.count(6) == 1


def test_an_error_in_the_background_reaches_the_one_who_asks():
    with pytest.raises(ZeroDivisionError):
        Ahead(lambda number: 1 / number)(0)
