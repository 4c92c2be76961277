"""What `benchmarks.chaos` needs to kill, notes of each kill, and makes of them."""

from __future__ import annotations

import os
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

KINDS = ("denoiser", "reward", "fusion", "trainer", "manager", "node")
SOON = "manager"  # is back soonest
HOW = {"SIGKILL": 4, "ray.kill": 4, "ray.kill for good": 1}  # shares
LEAST, MOST = 10, 1200.0  # kills of each kind that there are to be, and seconds that all may take
NOTICE, ANSWER = 15.0, 60.0  # seconds for a death to be seen, and for an actor to say what its process is
BACK = 4  # kills of each kind after which the victim's return is waited for; later victims may be away when the next one is killed


@dataclass(frozen=True)
class Kill:
    """One kill. seconds: until an outcome came again in every journal; back: until the victim worked again, None where nobody
    waited so long; nfe: spent once more because of it; unreported: at most how many more nobody has been told of."""

    kind: str
    how: str
    seconds: float
    back: float | None
    nfe: int
    unreported: int = 0


def chosen(kinds: Sequence[str], kills: int, least: int, seed: int) -> list[tuple[str, str]]:
    """Victims and how they are killed: `least` of each kind, and the others of the one that is back soonest, where that is asked for.

    In random order, but others than tree managers that are not to be restarted come last: who takes their place dies with the manager.
    """
    draw = random.Random(seed)
    first = [kind for kind in kinds for _ in range(least)][:kills]
    rest = [SOON] if SOON in kinds else kinds
    victims = first + [rest[index % len(rest)] for index in range(kills - len(first))]
    draw.shuffle(victims)
    ways = draw.choices(list(HOW), list(HOW.values()), k=len(victims))
    found = [(kind, "remove_node" if kind == "node" else how) for kind, how in zip(victims, ways)]
    return sorted(found, key=lambda one: one[0] != SOON and one[1].endswith("for good"))


def summary(kills: Sequence[Kill]) -> dict[str, Any]:
    """By kind: how many, and the recovery as median and most; `back` where the return was waited for."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        mine = [kill for kill in kills if kill.kind == kind]
        if mine:
            found[kind] = {"kills": len(mine), "how": dict(Counter(kill.how for kill in mine))}
            for name in ("seconds", "back", "nfe", "unreported"):
                values = [value for kill in mine if (value := getattr(kill, name)) is not None]
                found[kind][name] = {"median": round(statistics.median(values), 2), "most": max(values)} if values else None
    return found


def lacking(kills: Sequence[Kill], kinds: Sequence[str], least: int, seconds: float) -> list[str]:
    """What was asked for and is not so, in sentences."""
    counts = Counter(kill.kind for kill in kills)
    found = [f"{counts[kind]} kills of a {kind}, not {least}" for kind in kinds if counts[kind] < least]
    return found + ([f"it took {seconds:.0f} s, more than {MOST:.0f} s"] if seconds > MOST else [])


def make_ige(model: Path, reward: str, prompts: Sequence[str], folder: Path) -> Path:
    """A small IGE, so that the trainer has something to do; returns its folder."""
    from mcts_ray.gain import collect, train
    from mcts_ray.gain.record import Scale

    scale = Scale(states=3, noises=3, jumps=(1, 2, 4, 8))
    options = {"scale": scale, "levels": 8, "guidance": 2.0, "device": "cpu", "threads": 1}
    recorded = collect.run(str(model), reward, [*prompts, "a fox", "a hen"], folder / "transitions", **options)
    recipe = replace(train.RECIPE, steps=20, batch=8, checkpoint_every=10)
    return train.run(str(model), recorded, folder / "ige", recipe=recipe, width=16, threads=1)


def process_of(handle: Any) -> int | None:
    """The process of an actor; None while it has none."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        return ray.get(handle.__ray_call__.remote(lambda _: os.getpid()), timeout=ANSWER)
    except (RayActorError, GetTimeoutError):
        return None


def signalled(pid: int, what: int) -> None:
    """Send a signal to a process, if it is still there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass
