"""Many searches through the service at once: is any lost, how long does a look at one take, does the memory grow?

    python -m benchmarks.soak                    # 200 searches of 60 NFE through a service of its own, then its end
    python -m benchmarks.soak --searches 8 --budget 12 --levels 4 --name soak-smoke

The searches are submitted together by `AsyncClient` and followed by their events; while they run, `GET /v1/searches/{id}` of one after
the other is timed. Memory is what the processes of the service hold for themselves, by kind (jobs actor, tree manager, denoisers, rewards,
replicas and proxy of Serve), when a quarter of the searches has ended, and when all have; what Ray needs besides is told, but not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter

import numpy as np

from benchmarks.common import write
from benchmarks.serving import PROMPT, begin, memory, user

LIMITS = {"lost": 0, "twice": 0, "look_p95_ms": 250.0, "memory_growth": 1.1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--levels", type=int, default=30)
    parser.add_argument("--name", default="soak", help="of the results file")
    arguments = parser.parse_args()
    with user() as folder:
        from mcts_ray.service.up import down

        ready = begin(max_queue=max(1000, arguments.searches))
        try:
            found = asyncio.run(soak(arguments, folder))
        finally:
            down()
    kept = all(found[name] <= most for name, most in LIMITS.items())
    write(arguments.name, {"ready_seconds": ready, **found, "limits": LIMITS, "passed": kept})
    return int(not kept)


async def soak(arguments: argparse.Namespace, folder: str) -> dict:
    """Submit, watch, time, and count what came of it."""
    from mcts_ray import AsyncClient, SearchConfig

    held: dict[int, dict[str, dict[str, int]]] = {}
    jobs: list = []
    looks: list[float] = []
    start = time.monotonic()
    async with AsyncClient() as client:
        configs = [SearchConfig(budget=arguments.budget, levels=arguments.levels, seed=seed) for seed in range(arguments.searches)]
        ids = [job.id for job in await asyncio.gather(*(client.submit(PROMPT, config) for config in configs))]
        quarter = -(-len(ids) // 4)

        async def follow(id: str) -> None:
            jobs.append(await client.wait(id))
            ended = len(jobs)
            if ended in (quarter, len(ids)):
                held[ended] = await asyncio.to_thread(memory, folder)

        looking = asyncio.create_task(look(client, ids, looks))
        await asyncio.gather(*map(follow, ids))
        looking.cancel()
        seconds = time.monotonic() - start
        listed = [job.id async for job in client.jobs()]
    return {
        "searches": len(ids),
        "budget": arguments.budget,
        "seconds": round(seconds, 1),
        "done": sum(job.status == "done" for job in jobs),
        "lost": sum(job.status != "done" for job in jobs),
        "errors": Counter(f"{job.status}: {job.error}" for job in jobs if job.status != "done"),
        "twice": len(listed) - len(ids),
        "looks": len(looks),
        "look_p50_ms": round(1000 * float(np.percentile(looks, 50)), 1),
        "look_p95_ms": round(1000 * float(np.percentile(looks, 95)), 1),
        "memory_mib": {str(count): {part: in_mib(sizes) for part, sizes in parts.items()} for count, parts in held.items()},
        "memory_growth": round(of_service(held[len(ids)]) / of_service(held[quarter]), 3),
    }


async def look(client, ids: list[str], looks: list[float]) -> None:
    """Time `GET /v1/searches/{id}`, ten a second."""
    while True:
        for id in ids:
            start = time.monotonic()
            await client.job(id)
            looks.append(time.monotonic() - start)
            await asyncio.sleep(0.1)


def of_service(held: dict[str, dict[str, int]]) -> int:
    """Bytes of all processes of the service together."""
    return sum(held["service"].values())


def in_mib(sizes: dict[str, int]) -> dict[str, float]:
    """By kind of process, the largest first."""
    return {kind: round(size / 2**20, 1) for kind, size in sorted(sizes.items(), key=lambda one: -one[1])}


if __name__ == "__main__":
    sys.exit(main())
