"""Many searches through the service at once: is any lost, how long does a look at one take, does the memory grow?

    python -m benchmarks.soak                    # 200 searches of 60 NFE through a service of its own, then its end
    python -m benchmarks.soak --chaos            # and a Serve replica and the tree manager are killed meanwhile
    python -m benchmarks.soak --searches 6 --budget 12 --levels 4 --name soak-smoke

The searches are submitted together by `AsyncClient`; while they run, `GET /v1/searches/{id}` of one after the other is timed.
Memory is the resident set of the jobs actor, the tree manager and the Serve replica, after a quarter of the searches and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.common import write

PROMPT = "a red circle left of a blue square"
ACTORS = ("ray::JobsActor", "ray::TreeManager", "ray::ServeReplica:mcts-ray")
VICTIMS = ("ray::ServeReplica:mcts-ray", "ray::TreeManager")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--levels", type=int, default=30)
    parser.add_argument("--chaos", action="store_true", help="kill a Serve replica and the tree manager while the searches run")
    parser.add_argument("--name", help="of the results file [soak, soak-chaos]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mr") as folder:
        os.environ |= {"MCTS_RAY_HOME": f"{folder}/home", "RAY_TMPDIR": folder}
        for name in ("MCTS_RAY_URL", "MCTS_RAY_TOKEN", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        from mcts_ray.service.settings import Settings
        from mcts_ray.service.up import down, up

        start = time.monotonic()
        state = up(Settings(max_queue=max(1000, arguments.searches)), "local", "127.0.0.1", None)
        found = {"ready_seconds": round(time.monotonic() - start, 1)}
        try:
            found |= asyncio.run(soak(arguments, state["session"]))
        finally:
            down()
    write(arguments.name or ("soak-chaos" if arguments.chaos else "soak"), found)


async def soak(arguments: argparse.Namespace, session: str) -> dict:
    """Submit, watch, time, and count what came of it."""
    from mcts_ray import AsyncClient, SearchConfig

    config = SearchConfig(budget=arguments.budget, levels=arguments.levels)
    start = time.monotonic()
    async with AsyncClient() as client:
        seeded = [config.model_copy(update={"seed": seed}) for seed in range(arguments.searches)]
        jobs = await asyncio.gather(*(client.submit(PROMPT, SearchConfig(**one.model_dump(exclude_defaults=True))) for one in seeded))
        ids = [job.id for job in jobs]
        looks: list[float] = []
        memory: dict[int, int] = {}
        watcher = asyncio.create_task(look(client, ids, looks, memory, session))
        killer = asyncio.create_task(kill(session)) if arguments.chaos else None
        ended = await asyncio.gather(*(client.wait(id) for id in ids))
        memory[len(ids)] = resident(session)
        watcher.cancel()
        killed = await killer if killer else {}
        listed = [job.id async for job in client.jobs()]
    statuses = [job.status for job in ended]
    quarter = min((count for count in memory if count >= len(ids) / 4), default=len(ids))
    return {
        "searches": len(ids),
        "budget": arguments.budget,
        "seconds": round(time.monotonic() - start, 1),
        "done": statuses.count("done"),
        "lost": len(ids) - statuses.count("done"),
        "twice": len(listed) - len(set(listed)),
        "begun_again": sum(job.attempt > 1 for job in ended),
        "killed": killed,
        "looks": len(looks),
        "look_p50_ms": round(1000 * float(np.percentile(looks, 50)), 1) if looks else None,
        "look_p95_ms": round(1000 * float(np.percentile(looks, 95)), 1) if looks else None,
        "memory_mib": {str(count): round(size / 2**20, 1) for count, size in sorted(memory.items())},
        "memory_growth": round(memory[len(ids)] / memory[quarter], 3),
    }


async def look(client, ids: list[str], looks: list[float], memory: dict[int, int], session: str) -> None:
    """Time `GET /v1/searches/{id}`, ten a second, and weigh the actors whenever another eighth has ended."""
    done, step = set(), max(1, len(ids) // 8)
    while True:
        for id in ids:
            start = time.monotonic()
            try:
                job = await client.job(id)
            except Exception:  # a replica that has just been killed; `wait` is what must outlive that
                await asyncio.sleep(0.5)
                continue
            looks.append(time.monotonic() - start)
            done |= {id} if job.has_ended else set()
            if len(done) % step == 0 and len(done) and len(done) not in memory:
                memory[len(done)] = resident(session)
            await asyncio.sleep(0.1)


async def kill(session: str) -> dict[str, int]:
    """Kill each of the victims, some seconds apart; returns how many processes that were."""
    killed = {}
    for name in VICTIMS:
        await asyncio.sleep(10)
        victims = processes(session, (name,))
        for process in victims:
            process.kill()
        killed[name] = len(victims)
    return killed


def resident(session: str) -> int:
    """Bytes of the actors that hold jobs."""
    return sum(process.memory_info().rss for process in processes(session, ACTORS))


def processes(session: str, names: tuple[str, ...]) -> list[psutil.Process]:
    """Those of this cluster whose title begins with one of `names`."""
    found, folder = [], str(Path(session).parents[1])
    for process in psutil.process_iter():
        try:
            if " ".join(process.cmdline()).startswith(names) and process.environ().get("RAY_TMPDIR") == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    main()
