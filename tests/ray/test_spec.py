import threading
import time

from mcts_ray.actors.spec import Actor, in_turn


class Slow:
    """Notes who is at work in which thread."""

    def __init__(self, seconds):
        self.seconds, self.seen, self.at_work = seconds, [], 0

    def work(self, name):
        self.at_work += 1
        time.sleep(self.seconds)
        self.seen.append((name, threading.get_ident(), self.at_work))
        self.at_work -= 1
        return self._shout(name)

    def notes(self):
        return self.seen

    def _shout(self, name):
        return name.upper()


def test_calls_in_turn_are_carried_out_one_after_the_other_in_one_thread(cluster):
    actor = Actor(in_turn(Slow), 0.05, num_cpus=0)
    assert repr(actor) == "Actor(Slow)"
    assert cluster.get([actor.handle.work.remote(name) for name in "abcd"]) == list("ABCD")
    names, threads, at_work = zip(*cluster.get(actor.handle.notes.remote()))
    assert sorted(names) == list("abcd") and len(set(threads)) == 1 and set(at_work) == {1}
    cluster.kill(actor.handle)
