"""A tree manager without Ray, its actors made up."""

import asyncio
import pickle
import time
from types import SimpleNamespace

from mcts_ray.actors.tree_manager import TreeManager
from mcts_ray.executor.backend import Task
from mcts_ray.search import BestOfN, Edge, Setting, Work

NEVER, SHAPE = "never", (4, 8, 8)


class Nothing:
    """The answer of a call that nobody waits for, or that has nothing to say."""

    def __await__(self):
        yield from ()
        return []


class Handle:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return SimpleNamespace(remote=lambda *_: Nothing())


class Made:
    """An actor. place: whether it has one. gives: by method what calls give, or raise, one after the other, the last again and again; a
    function is asked; NEVER: nothing ever comes."""

    died = answered = holding = 0

    def __init__(self, place=True, **gives):
        self.place, self.gives, self.handle, self.asked, self.ended = place, gives, Handle(), [], 0

    async def call(self, method, *args):
        self.asked.append(method)
        await asyncio.sleep(0)
        given = self.gives.get(method, 0)
        if isinstance(given, list):
            given = given.pop(0) if len(given) > 1 else given[0]
        if given == NEVER or not self.place:
            await asyncio.Event().wait()
        given = given(*args) if callable(given) else given
        if isinstance(given, Exception):
            raise given
        return given

    async def revive(self):
        if not self.place:
            await asyncio.Event().wait()

    def end(self):
        self.ended += 1


class Manager(TreeManager):
    """One that deals nothing."""

    async def _deal(self, dealer):
        pass


def manager(*denoisers, reward=None, folder=None):
    rewards = [reward or Made()] * len(denoisers) if not isinstance(reward, list) else reward
    return Manager(pickle.dumps((list(zip(denoisers, rewards)), Made(), [])), folder)


def task(id):
    return Task(BestOfN(id, Setting("a cat", levels=4), 8), 2, 1)


def work(search, id):
    return Work(id, search, Setting("a cat", levels=4), None, "seed", (Edge(id, 4), Edge(id + "0", 0)))


async def submitted(one, *ids):
    await one.submit([task(id) for id in ids], "jpeg", SHAPE, 4)


async def until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
