"""Where the cluster is: addresses that do not answer, clusters that `ray start` has made, tokens, GPUs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mcts_ray.actors import cluster as clusters

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle left of a blue square"
SMALL = ["--reward", "jpeg", "--levels", "4", "--budget", "12", "--images", "1", "--json"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:99999999", "ray://127.0.0.1:10001"])
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="is not of the form host:port, as in 127.0.0.1:6379"):
        clusters.find(address)


def test_nobody_answers_there():
    start = time.monotonic()
    with pytest.raises(ValueError, match="no Ray cluster answers at 127.0.0.1:"):
        clusters.find(f"127.0.0.1:{free_port()}")
    assert time.monotonic() - start < clusters.PROBE + 1


def test_something_else_listens_there():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ValueError, match="what listens at 127.0.0.1:.* is no Ray cluster"):
            clusters.find(f"127.0.0.1:{silent.getsockname()[1]}")


def answering(code):
    """A server that answers every call so, and its address."""

    class Always(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, "no") if code else b"")

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Always()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED, None])
def test_whether_a_cluster_demands_a_token(code):
    head, address = answering(code)
    try:
        assert clusters.demands_token(address) == (code is grpc.StatusCode.UNAUTHENTICATED)
    finally:
        head.stop(0)


def test_a_cluster_that_demands_a_token_which_is_not_there(home, tiny_folder):
    head, address = answering(grpc.StatusCode.UNAUTHENTICATED)
    try:
        done = home.search(tiny_folder, "--address", address)
    finally:
        head.stop(0)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"the Ray cluster at {address} demands its token" in done.stderr


@pytest.mark.slow
def test_a_cluster_without_a_token_is_joined_without_the_one_that_is_there(home, tiny_folder):
    """Ray, once its mode is on, has a driver turn away the workers of such a cluster."""
    address = started(home)
    (home.path / ".ray").mkdir(exist_ok=True)
    (home.path / ".ray" / "auth_token").write_text("f" * 64)
    joined = home.search(tiny_folder, "--out", "joined", "--address", address)
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr


def test_where_the_cluster_is(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(clusters, "_connected", lambda: None)  # other tests of this process share a cluster
    assert clusters.find() is None and clusters.find("local") is None
    with pytest.raises(ValueError, match="no Ray cluster runs on this machine"):
        clusters.find("auto")
    head = grpc.server(ThreadPoolExecutor(1))
    here = f"127.0.0.1:{head.add_insecure_port('127.0.0.1:0')}"
    head.start()
    try:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(here)
        assert clusters.find() == clusters.find("auto") == clusters.started_here() == here
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
        assert clusters.find(here) == here and clusters.find("local") is None
        with pytest.raises(ValueError, match="no Ray cluster answers"):
            clusters.find()
    finally:
        head.stop(0)
    monkeypatch.delenv("RAY_ADDRESS")
    assert clusters.find() is None  # what a crashed cluster has left behind is passed over
    monkeypatch.setattr(clusters, "_connected", lambda: "127.0.0.1:1")
    assert clusters.find() == clusters.find("auto") == "127.0.0.1:1" and clusters.find("local") is None


class Home:
    """A user of his own: home, temporary folder and environment without anything of Ray."""

    def __init__(self, path):
        self.tmp = Path("/tmp") / f"mr{os.getpid()}{path.name[-4:]}"  # short: Ray puts sockets there
        self.tmp.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env = {**kept, "HOME": str(path), "RAY_TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.path = path

    def search(self, model, *arguments, cwd=None, **env):
        command = [sys.executable, "-m", "mcts_ray", "search", PROMPT, "--model", str(model), *SMALL, *arguments]
        return subprocess.run(command, cwd=cwd or self.path, env={**self.env, **env}, capture_output=True, text=True, timeout=180)

    def ray(self, *arguments):
        command = [str(Path(sys.executable).with_name("ray")), *arguments]
        return subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=120)

    def processes(self, name):
        """(pid, command line) of processes of this user's clusters with `name` in it."""
        return [(pid, line) for pid, line in _commands() if name in line and str(self.tmp) in line]


def _commands():
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(entry.parent.name), entry.read_text().replace("\0", " ")


def _actors(home):
    """Those on this machine, orphans too, but for what a living cluster of others has: other tests may be running beside this one."""
    lines = dict(_commands())
    others = {pid for pid, line in lines.items() if "raylet" in line and str(home.tmp) not in line}
    named = [pid for pid, line in lines.items() if line.startswith(("ray::TreeManager", "ray::DenoiserWorker", "ray::RewardWorker"))]
    return [pid for pid in named if _parent(pid) not in others]


def _parent(pid):
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    yield home
    for pid, _ in home.processes(""):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def started(home):
    """The address of a cluster that `ray start` has made."""
    port = free_port()
    done = home.ray("start", "--head", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false")
    assert done.returncode == 0, done.stderr
    return f"127.0.0.1:{port}"


@pytest.mark.slow
def test_local_search_then_ray_start_then_search_by_address(home, tiny_folder):
    """In one home, in that order: the first search leaves a token, which the cluster of `ray start` then demands."""
    alone = home.search(tiny_folder, "--out", "alone")
    assert alone.returncode == 0 and alone.stderr == "", alone.stderr
    assert not home.processes("raylet")  # its own cluster has ended with it
    address = started(home)
    joined = home.search(tiny_folder, "--out", "joined", "--address", address)
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr
    assert json.loads(joined.stdout)["reward"] == json.loads(alone.stdout)["reward"]
    deadline = time.monotonic() + 20
    while _actors(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert home.processes("raylet") and not _actors(home)  # the cluster lives on, and nothing of the searches
    (home.path / "else" / "where").mkdir(parents=True)
    (home.path / "else" / "my_reward.py").write_text("import my_helper\n\ndef dark(images, prompts):\n    return -images.mean((1, 2, 3))\n")
    (home.path / "else" / "my_helper.py").touch()
    mine = home.search(tiny_folder, "--address", address, "--reward", "my_reward:dark", cwd=home.path / "else")
    assert mine.returncode == 0 and json.loads(mine.stdout)["reward"]["best"] < 0, mine.stderr
    path = {"PYTHONPATH": f"{ROOT}:..", "cwd": home.path / "else" / "where"}
    mine = home.search(tiny_folder, "--address", address, "--reward", "my_reward:dark", **path)
    assert mine.returncode == 0 and json.loads(mine.stdout)["reward"]["best"] < 0, mine.stderr
    busy = home.search(tiny_folder, "--out", "busy", "--workers", "3", "--address", address)
    assert busy.returncode == 2 and "3 workers need as many CPUs, and the Ray cluster has 2" in busy.stderr


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["RAY_ADDRESS", "on this machine"])
def test_a_cluster_is_found_without_an_address(home, tiny_folder, named):
    address = started(home)
    joined = home.search(tiny_folder, "--out", "joined", **({"RAY_ADDRESS": address} if named else {}))
    assert joined.returncode == 0 and joined.stderr == "", joined.stderr
    assert home.processes("raylet")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_unreachable_address_is_exit_code_2_at_once(home, tiny_folder, address):
    start = time.monotonic()
    done = home.search(tiny_folder, "--address", address)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and address in done.stderr
    assert time.monotonic() - start < 15 and not (home.path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_actor_behind_and_keeps_what_was_found(home, tiny_folder, stop):
    command = [sys.executable, "-m", "mcts_ray", "search", PROMPT, "--model", str(tiny_folder), *SMALL]
    process = subprocess.Popen(
        [*command, "--budget", "400000", "--in-flight", "1", "--out", "run"], cwd=home.path, env=home.env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    metrics, deadline = home.path / "run" / "metrics.jsonl", time.monotonic() + 90
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted; what was found is in" in err, err
    assert all((home.path / path).is_file() for path in json.loads(out)["images"])
    assert json.loads((home.path / "run" / "job.json").read_text())["status"] == "interrupted"
    assert not home.processes("raylet") and not home.processes("gcs_server")


@pytest.mark.slow
def test_every_gpu_gets_a_denoiser_and_beside_it_a_reward_and_the_first_the_fusion_actor_too(tiny_folder, cluster):
    """Logical GPUs on two nodes. Nothing is loaded: only where the actors sit and what they see is looked at."""
    script = f"""
import json, os, ray
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}})
nodes.add_node(num_cpus=2, num_gpus=2)
ray.init(address=nodes.address, log_to_driver=False)
from mcts_ray import Searcher
searcher = Searcher.from_pretrained({str(tiny_folder)!r}, executor="ray")
backend = searcher.backend
places = ray.get([actor.handle.place.remote() for actor in backend._actors[:3]])
sees = lambda worker: (ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"])
beside = ray.get([actor.handle.__ray_call__.remote(sees) for actor in backend._actors[3:]])
print(json.dumps([backend.device, backend.workers, [p[:2] for p in places], beside]))
searcher.close()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, env=env)
    device, workers, places, beside = json.loads(done.stdout.splitlines()[-1])
    assert (device, workers) == ("cuda", 3)
    assert len({(node, *gpus) for node, gpus in places}) == 3 and all(len(gpus) == 1 for _, gpus in places)
    assert [[node, gpus[0]] for node, gpus in (*places, places[0])] == beside


@pytest.mark.slow
def test_a_reward_on_a_gpu_follows_its_denoiser_off_a_node_that_is_gone(tiny_folder, cluster):
    """Whatever is asked of it first: here, as when the tree manager has it load a reward, a call that may be repeated."""
    script = f"""
import asyncio, json, ray
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
added = [nodes.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
ray.init(address=nodes.address, log_to_driver=False)
from mcts_ray import Searcher
searcher = Searcher.from_pretrained({str(tiny_folder)!r}, executor="ray", workers=1)
denoiser, reward = searcher.backend._pool[0][0]
where = lambda worker: ray.get_runtime_context().get_node_id()
before = [ray.get(actor.handle.__ray_call__.remote(where)) for actor in (denoiser, reward)]
nodes.remove_node(next(node for node in added if node.node_id == before[0]))
asyncio.run(asyncio.wait_for(reward.call("forget", "a search"), 120))
after = [ray.get(actor.handle.__ray_call__.remote(where)) for actor in (denoiser, reward)]
print(json.dumps([before, after]))
searcher.close()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before[0] == before[1] != after[0] == after[1]


@pytest.mark.slow
def test_a_search_ends_without_a_node_that_is_not_replaced(cluster):
    """One of two denoisers goes for good while it has units in hand and others of its wait to be scored."""
    script = """
import json, ray
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
added = [nodes.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=nodes.address, namespace="mcts_ray", log_to_driver=False)
from benchmarks.emulated import Emulated, best_of_n
where = lambda worker: ray.get_runtime_context().get_node_id()
with Emulated(2, 4, 0.05, reward_seconds=0.02, rewards=2, cpus=1, shape=(1, 16, 16)) as emulated:
    ids = emulated.submit([best_of_n("s", 1200, 2)], in_flight=60)
    emulated.until(lambda census: min(census["nfe"]) > 100 and census["finished"] > 4)
    homes = [ray.get(actor.handle.__ray_call__.remote(where)) for actor in emulated.denoisers]
    driver_and_manager = ray.get(emulated.manager.__ray_call__.remote(where))
    nodes.remove_node(next(node for node in added if node.node_id in homes and node.node_id != driver_and_manager))
    found = emulated.finish(ids)[0]
    census = emulated.census()
print(json.dumps([len(set(homes)), found.ledger.nfe, len(found.finished), found.errors, census["out"], census["finished"], census["deaths"]]))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    homes, nfe, finished, errors, out, waiting, deaths = json.loads(done.stdout.splitlines()[-1])
    assert (homes, nfe, finished, errors, out, waiting) == (2, 1200, 600, [], 0, 0) and deaths >= 1
