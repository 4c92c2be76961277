"""The HTTP API under requests made from its own OpenAPI document, right and wrong ones, by schemathesis (`pip install 'mcts-ray[fuzz]'`).

    python -m benchmarks.fuzz                    # 200 requests of every operation, on searches that take no time
    python -m benchmarks.fuzz --examples 5 --name fuzz-smoke

The application and the life cycle are the real ones; what is made up are the searches, since the API is what is asked about. A case
fails on a 5xx, an answer of another status, type or form than the document says (of an error: an object with a sentence), and more than
10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from benchmarks.common import write
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.base import Progress
from mcts_ray.service.app import make_app
from mcts_ray.service.jobs import Jobs
from mcts_ray.service.models import SearchRequest
from mcts_ray.service.runner import Ended
from mcts_ray.service.settings import Settings
from mcts_ray.service.store import JobStore

TOKEN = "a-token-for-fuzzing"


class AtOnce:
    """Searches that are over as soon as they begin."""

    def start(self) -> None: ...

    def close(self) -> None: ...

    def census(self) -> list:
        return []

    def goes_on(self, out: Path, budget: int) -> bool:
        return False

    def spent(self, out: Path) -> int:
        return 0

    def found(self, out: Path) -> None:
        return None

    def extend(self, out: Path, nfe: int) -> bool:
        return True

    def run(self, request: SearchRequest, out: Path, on_progress: Callable[[Progress], None]) -> Ended:
        on_progress(Progress(1, request.budget, 0.1, (0.5,), 1, 0, 1, (b"\xff\xd8",)))
        (out / "images").mkdir(parents=True)
        for name in ("images/01.png", "tree.json", "report.html"):
            (out / name).write_text("{}")
        result = {"run_dir": str(out), "images": [str(out / "images" / "01.png")], "reward": {"name": "x", "best": 0.5, "mean": 0.5}}
        return Ended("done", result | {"ledger": {"nfe": 1, "seconds": 0.1, "decodes": 1}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="requests of each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="fuzz", help="of the results file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port, stop = serve(folder)
        start = time.monotonic()
        done = subprocess.run(command(port, arguments), capture_output=True, text=True)
        seconds = time.monotonic() - start
        stop()
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    write(
        arguments.name,
        {"passed": done.returncode == 0, "examples": arguments.examples, "seconds": round(seconds, 1), "tail": tail(done.stdout)},
    )


def command(port: int, arguments: argparse.Namespace) -> list[str]:
    """Run schemathesis with the checks that the API promises to pass."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"
    options = ["--checks", checks, "--max-examples", str(arguments.examples), "--seed", str(arguments.seed)]
    options += ["--request-timeout", "10", "--header", f"Authorization: Bearer {TOKEN}", "--mode", "all"]
    return [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", *options]


def serve(folder: str) -> tuple[int, Callable[[], None]]:
    """The application on a free port, in a thread."""
    settings = Settings(max_queue=10_000, max_budget=1000)
    jobs = Jobs(settings, JobStore(folder), AtOnce(), {"scenes": resolve_model("scenes")})
    app = make_app(jobs, TOKEN)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))

    async def run() -> None:
        await jobs.start()
        await server.serve()
        await jobs.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    return port, stop


def tail(text: str) -> list[str]:
    """The last lines, which sum it up."""
    return [line for line in text.splitlines() if line.strip()][-12:]


if __name__ == "__main__":
    main()
