"""Short ways to say walks and to run them."""

from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.search.base import Edge, Setting, Work
from tests.tiny import SIZE

SHAPE = (4, 8, 8)


def setting(prompt="a red circle", **fields) -> Setting:
    return Setting(prompt, **{"guidance": 3.0, "levels": 10, "height": SIZE, "width": SIZE, **fields})


def seed_walk(name, setting, levels=None, phi=lambda a, s: 0.0, **fields) -> Work:
    """A walk from a seed through `levels` (all of them by default); node ids are NAME/LEVEL."""
    levels = list(range(setting.levels, -1, -1)) if levels is None else levels
    edges = [Edge(f"{name}/{levels[0]}", levels[0])]
    edges += [Edge(f"{name}/{s}", s, phi(a, s)) for a, s in zip(levels, levels[1:], strict=False)]
    return Work(name, fields.pop("search", "search"), setting, None, "seed", tuple(edges), **fields)


def run(engine, works):
    """Submit, run to the end, and give the walks by work id, in order of their ending."""
    engine.submit(works)
    walked = []
    while not engine.idle:
        walked += engine.step()
    return {each.work.id: each for each in walked}


def engine_of(pipe, batch_size=8) -> Engine:
    return Engine(Denoiser(make_adapter(pipe)), batch_size)
