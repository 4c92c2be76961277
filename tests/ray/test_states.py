"""The cache of states, with stand-ins for refs."""

from mcts_ray.actors.states import Batch, States


class Ref(str):
    def hex(self):
        return str(self)


def batch(name, size=10):
    return Batch(Ref(name), "denoiser", 1, size)


def filled(limit=None):
    states = States(limit)
    for name in "abc":
        states.put([("s", name + "1"), ("s", name + "2")], batch(name))
    return states


def test_a_batch_goes_with_its_last_state():
    states = filled()
    states.forget(("s", "a1"))
    assert states.size == 30 and ("s", "a1") not in states and states.get(("s", "a2")).ref == "a"
    states.forget(("s", "a2"))
    assert states.size == 20 and len(states) == 4


def test_made_again_it_is_in_the_newer_batch():
    states = filled()
    states.put([("s", "a1"), ("s", "a2")], batch("d"))
    assert states.get(("s", "a1")).ref == "d" and states.size == 30
    states.put([], batch("e"))
    assert states.size == 30


def test_lost_refs_and_searches_that_have_ended():
    states = filled()
    states.put([("t", "1")], batch("d"))
    states.drop({"a", "nothing"})
    assert len(states) == 5 and states.size == 30
    states.drop_search("s")
    assert len(states) == 1 and states.size == 10 and ("t", "1") in states


def test_the_least_recently_used_goes_first_unless_it_is_needed():
    states = filled(limit=20)
    states.use(("s", "a1"))
    assert set(states.trim(lambda: {("s", "b2")})) == {("s", "c1"), ("s", "c2")}
    assert states.size == 20 and states.evicted == 2 and states.trim(set) == []
    states.limit = 0
    states.trim(set)
    assert states.size == 0 and len(states) == 0 and filled().trim(set) == []
