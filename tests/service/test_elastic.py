"""How many denoisers a model of a service has, by what its tree manager says of the work."""

from types import SimpleNamespace

from mcts_ray.service.actor import RayRunner
from mcts_ray.service.elastic import FULL, IDLE, Elastic
from mcts_ray.service.settings import Settings


def census(here, out, waiting=0, joining=0, size=8):
    return {"out": out, "finished": 0, "room": here * size, "nfe": [0] * here, "waiting": waiting, "joining": joining}


def test_one_more_is_asked_for_while_full_batches_leave_units_waiting():
    elastic = Elastic(1, 3)
    assert [elastic.wanted(1, census(1, 8, waiting=20)) for _ in range(FULL)] == [1] * (FULL - 1) + [2]
    assert {elastic.wanted(2, census(1, 8, waiting=20, joining=1)) for _ in range(9)} == {2}  # it has no room yet
    elastic = Elastic(1, 3)
    assert {elastic.wanted(3, census(3, 24, waiting=20)) for _ in range(9)} == {3}  # no more are allowed
    assert {elastic.wanted(1, census(1, 8)) for _ in range(9)} == {1}  # full, but nothing waits
    for _ in range(9):  # full now and then
        assert elastic.wanted(1, census(1, 8, waiting=20)) == elastic.wanted(1, census(1, 7, waiting=20)) == 1


def test_one_goes_after_some_time_in_which_it_was_not_needed():
    now = [0.0]
    elastic = Elastic(1, 3, clock=lambda: now[0])

    def look(workers, seconds, here, out):
        now[0] += seconds
        return elastic.wanted(workers, census(here, out))

    assert look(3, IDLE - 1, 3, 16) == 3 and look(3, 2, 3, 16) == 2  # two would hold sixteen
    assert look(2, IDLE - 1, 2, 9) == 2 and look(2, IDLE - 1, 2, 8) == 2 and look(2, 2, 2, 0) == 1
    assert look(1, 10 * IDLE, 1, 0) == 1  # never fewer than at the start


def test_the_service_has_its_searchers_grow():
    """RayRunner on a backend that is always full."""

    class Backend:
        workers = 1

        def census(self):
            return census(self.workers, 8 * self.workers, waiting=5)

        def resize(self, workers):
            self.workers = workers

    for most, grown in ((None, 1), (3, 3)):
        runner = RayRunner(Settings(max_workers=most))
        backend = Backend()
        runner._searchers["scenes"] = SimpleNamespace(backend=backend)
        looks = [runner.census() for _ in range(3 * FULL)]
        assert backend.workers == grown and looks[0] == [census(1, 8, waiting=5)]
