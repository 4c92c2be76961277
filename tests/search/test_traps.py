"""Known traps that many searches share; those of one alone are in its own file."""

import numpy as np
import pytest

from mcts_ray.config import NOISY, TREES, SearchConfig
from mcts_ray.gain import Constant
from mcts_ray.search import ALGORITHMS, Setting
from tests.mixture import Mixture, run

from .fake import carry_out

T = 6
MODEL = Mixture()
COPIES = sorted(NOISY - TREES)


@pytest.mark.parametrize("name", sorted(NOISY))
def test_ode_copies_are_refused(name):
    """Known trap: states that are copied, or drawn from one parent, and then walk without noise stay equal."""
    with pytest.raises(ValueError, match=f"{name} needs noise, without which copies of a state stay equal; set eta above 0"):
        SearchConfig(algorithm=name, eta=0)
    assert SearchConfig(algorithm=name).resolved(True, (64, 64), "scenes").eta == 1


@pytest.mark.parametrize("name", COPIES)
def test_ode_copies_are_not_among_the_images(name):
    """The same on the exact model: no two images of a search are the same number, however often their states were copied."""
    search = ALGORITHMS[name]("s", MODEL.setting(T), 30 * T, phi=MODEL.phi(T))
    images = list(run(search, MODEL, lambda x: 5 * np.asarray(x)).values())
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_guidance_counts_once_and_every_decode_is_booked(name):
    """Known traps: the guidance pair counted once here and twice there; decodes and verifier calls for step scores left out of the
    account. NFE are the states evaluated, whoever searches; decodes are the images and, by x0, the states scored."""
    config = SearchConfig(algorithm=name, levels=10, budget=80).resolved(True, (64, 64), "scenes")
    search = ALGORITHMS[name].from_config("s", Setting("", levels=10), config, lambda a, s: 0.3, Constant(1))
    works = carry_out(search)
    assert search.ledger.nfe == sum(edge.level > 0 for work in works for edge in work.edges) <= 80
    states = sum(len(work.scored) for work in works)
    assert search.ledger.decodes == search.ledger.reward_calls == len(search.finished) + states
