import pytest

from mcts_ray.config import SearchConfig
from mcts_ray.gain import make_policy
from mcts_ray.search import ALGORITHMS, Setting
from mcts_ray.search.trajectories import no_noise
from mcts_ray.search.rehearsal import rehearse


def test_fusions_are_rehearsed_too():
    config = SearchConfig(algorithm="mcts", levels=10, budget=200, fuse="signed", particles="retire", max_fusions=2)
    config = config.resolved(False, (64, 64), "jpeg")
    search = ALGORITHMS["mcts"].from_config("s", Setting("", levels=10), config, no_noise, make_policy(config, range))
    ledger = rehearse(search, config.in_flight)
    assert 0 < ledger.fusions == sum(node.action == "fuse" for node in search.tree) and ledger.nfe <= 200


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("jump", [{}, {"jump": "table", "jump_table": [1, 2, 2, 4, 4, 4, 4, 8, 8, 8]}, {"jump": "ays"}])
@pytest.mark.parametrize("values", [{}, {"max_decodes": 9}, {"in_flight": 1}])
def test_every_algorithm_is_built_from_its_configuration_and_keeps_its_budget(algorithm, jump, values):
    config = SearchConfig(algorithm=algorithm, levels=10, budget=85, **jump, **values).resolved(False, (64, 64), "jpeg")
    policy = make_policy(config, lambda: range(10, 0, -3))
    search = ALGORITHMS[algorithm].from_config("s", Setting("", levels=10), config, no_noise, policy)
    ledger = rehearse(search, config.in_flight)
    assert search.done and search.finished
    assert 0 < ledger.nfe <= 85 and 0 < ledger.decodes <= values.get("max_decodes", 1000)
