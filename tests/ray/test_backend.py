"""Searches by Ray actors, on a real tiny pipeline: the same trees as in process, more workers, deaths, interrupts."""

import json
import shutil
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from mcts_ray import SearchConfig, Searcher, SearchInterrupted
from mcts_ray.actors.cluster import find
from mcts_ray.actors.denoiser import DenoiserWorker
from mcts_ray.actors.reward import RewardWorker
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.executor.in_process import InProcess
from mcts_ray.executor.plan import build
from mcts_ray.search.journal import replay
from tests.gain.conftest import scale, trained, transitions  # noqa: F401  (fixtures: an IGE for the tiny pipeline)

CONFIG = SearchConfig(algorithm="mcts", levels=8, budget=80, guidance=2.0, images=3, seeds=4, reward="jpeg")
FUSING = CONFIG.model_copy(update={"fuse": "signed", "seeds": 7, "budget": 120, "fuse_after": 6})
PROMPTS = ["a red circle", "a blue square"]
SMALL = ("svdd", "beam", "bfs", "smc-tempered", "rbf", "dts-star", "random")


@pytest.fixture(scope="module")
def local(tiny_folder):
    return Searcher.from_pretrained(str(tiny_folder), device="cpu")


@pytest.fixture(scope="module")
def one(cluster, tiny_folder):
    with Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=1) as searcher:
        yield searcher


@pytest.fixture(scope="module")
def two(cluster, tiny_folder):
    with Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=2) as searcher:
        yield searcher


def in_flight(searcher, cluster):
    """What the tree manager has in hand."""
    return cluster.get(searcher.backend._manager.census.remote())


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        FUSING,
        FUSING.model_copy(update={"fuse": "features"}),
        CONFIG.model_copy(update={"algorithm": "best-of-n", "eta": 1.0}),
        CONFIG.model_copy(update={"algorithm": "psp", "order": 2}),
        CONFIG.model_copy(update={"jump": "ays", "levels": 20, "budget": 100, "rollout_stride": 3}),
        CONFIG.model_copy(update={"prune": ("statistical", "memory"), "prune_least": 2, "prune_cold": 0.02, "rollout_stride": 4, "budget": 120}),
        *(CONFIG.model_copy(update={"algorithm": name, "eta": 1.0}) for name in ("fk", "nts", "demon", "dfs", "zero-order", "dts")),
        *(CONFIG.model_copy(update={"algorithm": name, "eta": 1.0, "budget": 40}) for name in SMALL),
    ],
    ids=["mcts", "fusing", "fusing-states", "best-of-n", "psp", "ays", "memory", "fk", "nts", "demon", "dfs", "zero-order", "dts", *SMALL],
)
def test_one_worker_gives_the_local_tree_node_for_node(local, one, config, tmp_path):
    here = local.many(PROMPTS, config)
    there = one.many(PROMPTS, config, outs=[tmp_path / "0", tmp_path / "1"])
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.tree == ours.tree
        assert [c.node for c in theirs.candidates] == [c.node for c in ours.candidates]
        assert [c.reward for c in theirs.finished] == [c.reward for c in ours.finished]
        assert all(np.array_equal(a, b) for a, b in zip(ours.images, theirs.images, strict=True))
        assert np.array_equal(ours.first, theirs.first) and theirs.thumbnails == ours.thumbnails
        for name in ("nfe", "model_forwards", "decodes", "reward_calls", "fusions"):
            assert getattr(theirs.ledger, name) == getattr(ours.ledger, name), name
        assert theirs.refusals == ours.refusals and theirs.pruning == ours.pruning
        assert not ours.pruning or min(ours.pruning["evicted"], ours.pruning["remade"]) > 0


@pytest.mark.parametrize("xl", [False, True])
def test_workers_load_what_the_local_executor_loads(tiny_folder, tiny_xl_folder, xl):
    """The plain classes inside the actors, without Ray."""
    model = resolve_model(str(tiny_xl_folder if xl else tiny_folder))
    adapter = InProcess(load_pipeline(model, "cpu"), model.name).adapter
    assert type(DenoiserWorker(model, "cpu", "fp32").denoiser.adapter) is type(adapter)
    assert RewardWorker(model, "cpu", "fp32")._decoder.adapter._upcast is adapter._vae._upcast is xl


@pytest.fixture
def value_head(local, tmp_path):
    """The folder of an untrained value head with other weights than zero."""
    import torch

    from mcts_ray.reward.value.head import Config, ValueHead, fingerprint
    from mcts_ray.reward.value.network import Shape, ValueNetwork

    torch.manual_seed(0)
    network = ValueNetwork(Shape({"mid": 16}, latent=4, text=16, grid=4, width=16, heads=2))
    torch.nn.init.normal_(network.head[-1].weight)
    ValueHead(network, Config("tiny", "jpeg", network.shape, -4.0, 0.5, fingerprint(local.backend.adapter))).save(tmp_path / "head")
    return tmp_path / "head"


def test_states_scored_in_the_engine_give_the_local_tree(local, one, value_head, monkeypatch):
    """The head is named by a folder relative to this process; its scores decide in psp, and are noted in mcts."""
    monkeypatch.chdir(value_head.parent)
    for algorithm in ("psp", "mcts"):
        config = CONFIG.model_copy(update={"algorithm": algorithm, "step_reward": "value", "step_model": "head"})
        for ours, theirs in zip(local.many(PROMPTS, config), one.many(PROMPTS, config), strict=True):
            assert theirs.tree == ours.tree and [c.reward for c in theirs.finished] == [c.reward for c in ours.finished]
            for name in ("nfe", "model_forwards", "decodes", "reward_calls"):
                assert getattr(theirs.ledger, name) == getattr(ours.ledger, name), name
            assert theirs.ledger.decodes == len(theirs.finished) < theirs.ledger.reward_calls
    with pytest.raises(ValueError, match="step_model 'nowhere' is no folder"):
        one("a red circle", config.model_copy(update={"step_model": "nowhere"}))


def test_fused_nodes_come_with_their_parents(one, tmp_path):
    result = one.many(PROMPTS[:1], FUSING, outs=[tmp_path / "run"])[0]
    nodes = {node["id"]: node for node in result.tree["nodes"]}
    fused = [node for node in nodes.values() if node["action"] == "fuse"]
    assert fused and result.ledger.fusions == len(fused)
    assert all(len(node["particles"]) >= 6 and set(node["particles"]) <= set(nodes) for node in fused)
    assert all(-1 <= node["cosine"] < 0.98 and 1 < node["ess"] <= len(node["particles"]) for node in fused)


def test_the_journal_of_a_ray_search_rebuilds_it(one, local, tmp_path):
    result = one("a red circle", CONFIG, out=tmp_path / "run")
    header, *records = map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines())
    again = build(local.model, local.backend.denoiser, header["search"], "a red circle", result.config)
    replay(again, records)
    assert again.nodes() == result.tree["nodes"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"job.json", "journal.jsonl", "metrics.jsonl", "tree.json", "report.html", "images"}


def test_two_workers_spend_the_whole_budget_and_leave_nothing_behind(two, cluster):
    seen = []
    results = two.many(PROMPTS * 2, CONFIG, on_progress=seen.append)
    for result in results:
        assert 80 - 8 < result.ledger.nfe <= 80 and result.images and not result.errors
        assert sum(node["level"] > 0 for node in result.tree["nodes"]) == result.ledger.nfe
    assert seen[-1].nfe == sum(result.ledger.nfe for result in results) and seen[-1].running == 0
    census = in_flight(two, cluster)
    assert (census["searches"], census["out"], census["finished"]) == (0, 0, 0)


@pytest.mark.slow
def test_models_side_by_side_do_not_disturb_each_other(one, local, tiny_xl_folder):
    """Two models on one cluster, each with its own denoiser and manager, searching at once: each gives its local tree."""
    here = {"small": local(PROMPTS[0], CONFIG), "xl": Searcher.from_pretrained(str(tiny_xl_folder), device="cpu")(PROMPTS[0], CONFIG)}
    with Searcher.from_pretrained(str(tiny_xl_folder), device="cpu", executor="ray", workers=1) as xl:
        with ThreadPoolExecutor(2) as threads:
            asked = {"small": threads.submit(one, PROMPTS[0], CONFIG), "xl": threads.submit(xl, PROMPTS[0], CONFIG)}
            there = {name: future.result(timeout=300) for name, future in asked.items()}
    for name in here:
        assert there[name].tree == here[name].tree
        assert [c.reward for c in there[name].finished] == [c.reward for c in here[name].finished]
    assert here["small"].tree != here["xl"].tree


def test_one_search_keeps_both_denoisers_at_work(two, cluster):
    config, deadline = CONFIG.model_copy(update={"algorithm": "best-of-n", "budget": 240, "seeds": None}), time.monotonic() + 60
    while two("a red circle", config) and not min(in_flight(two, cluster)["nfe"]) and time.monotonic() < deadline:
        time.sleep(1)  # a search begins with the denoiser that is there first
    result = two("a red circle", config)
    shares = in_flight(two, cluster)["nfe"]
    assert sum(shares) == result.ledger.nfe == 240 and min(shares) >= 0.3 * 240


def test_each_search_has_its_own_clock_and_account(one):
    seen = []
    for _ in range(3):
        start = time.monotonic()
        result = one("a red circle", CONFIG, on_progress=seen.append)
        assert result.ledger.seconds <= time.monotonic() - start and seen[-1].nfe == result.ledger.nfe


def test_children_of_states_that_another_denoiser_holds_are_the_same(two, local):
    """With one unit in flight the two denoisers take turns, so most children start from the other one's states."""
    config = CONFIG.model_copy(update={"in_flight": 1})
    assert two("a red circle", config).tree == local("a red circle", config).tree


def test_a_time_limit_ends_a_search_in_time(one):
    result = one("a red circle", CONFIG.model_copy(update={"budget": 10**6, "max_seconds": 2.0, "algorithm": "best-of-n"}))
    assert result.images and 1.0 < result.ledger.seconds < 4.0 and result.ledger.nfe > 0


@pytest.mark.parametrize(
    "victim, for_good",
    [
        ("denoiser", True),
        ("reward", False),
        ("fusion", False),
        pytest.param("denoiser", False, marks=pytest.mark.slow),
        pytest.param("reward", True, marks=pytest.mark.slow),
        pytest.param("fusion", True, marks=pytest.mark.slow),
    ],
)
def test_an_actor_that_dies_is_replaced_and_its_work_sent_again(two, cluster, victim, for_good):
    """Killed while the search runs, restarted by Ray or gone for good; the search still spends its whole budget."""
    before = in_flight(two, cluster)["deaths"]
    noticed = victim != "denoiser" or for_good  # the death of a denoiser is counted if it holds work, which it does sooner or later
    for _ in range(5):
        search_and_kill(two, cluster, victim, for_good)
        noticed = noticed or in_flight(two, cluster)["deaths"] > before
        if noticed:
            break
    assert noticed
    again = two("a red circle", CONFIG)
    assert again.images and not again.errors


def search_and_kill(two, cluster, victim, for_good):
    actor = cluster.get(two.backend._manager.actors.remote())[victim][0]
    killed = threading.Event()

    def kill(progress):
        if progress.nfe > 30 and not killed.is_set():
            cluster.kill(actor, no_restart=for_good)
            killed.set()

    config = FUSING.model_copy(update={"budget": 320})
    result = two("a red circle", config, on_progress=kill)
    assert killed.is_set() and not result.errors and result.ledger.nfe > 320 - 8
    assert sum(node["level"] > 0 for node in result.tree["nodes"]) == result.ledger.nfe


@pytest.mark.slow
def test_an_actor_that_dies_between_two_searches_is_replaced(two, cluster):
    for kind in ("denoiser", "reward"):
        cluster.kill(cluster.get(two.backend._manager.actors.remote())[kind][0], no_restart=True)
        result = two("a red circle", CONFIG)
        assert result.images and not result.errors and result.ledger.nfe > 80 - 8


def test_ctrl_c_hands_over_what_was_found(one, cluster, tmp_path):
    def interrupt(progress):
        if progress.images:
            raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as caught:
        one("a red circle", CONFIG.model_copy(update={"budget": 10**5}), interrupt, out=tmp_path / "run")
    result = caught.value.results[0]
    assert result.ledger.nfe == sum(in_flight(one, cluster)["nfe"])  # the batch under way is booked too
    assert result.images and (tmp_path / "run" / "images" / "01.png").exists()
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "interrupted"
    assert one("a red circle", CONFIG).images  # the actors are still good


@dataclass
class Dark:
    """A reward that cannot be hashed."""

    __name__ = "dark"
    sign: float = -1.0

    def __call__(self, images, prompts):
        return self.sign * images.reshape(len(images), -1).mean(1)


def test_a_callable_reward_travels(one):
    dark = Dark()
    one.reward, reward = dark, one.reward
    try:
        result = one("a red circle", CONFIG.model_copy(update={"reward": None}))
    finally:
        one.reward = reward
    assert result.config.reward == "dark" and result.best.reward == pytest.approx(-np.asarray(result.images[0]).mean())


def test_weights_of_a_reward_are_found_from_here(one, local, clip_folder, monkeypatch):
    monkeypatch.chdir(clip_folder.parent)
    config = CONFIG.model_copy(update={"algorithm": "best-of-n", "reward": f"pickscore@{clip_folder.name}"})
    here, there = local("a red circle", config), one("a red circle", config)
    assert there.config.reward == f"pickscore@{clip_folder.name}"
    assert [c.reward for c in there.candidates] == pytest.approx([c.reward for c in here.candidates])
    assert there.ledger.model_forwards == here.ledger.model_forwards


def test_weights_that_cannot_be_loaded_are_the_users_mistake(one, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="reward 'pickscore': .* cannot be loaded"):
        one("a red circle", CONFIG.model_copy(update={"reward": f"pickscore@{tmp_path}/clip"}))


def test_a_module_that_the_node_lacks_is_named(one, monkeypatch):
    """Here it is in memory alone; on another machine its file would be missing."""
    module = types.ModuleType("only_here")
    module.dark = lambda images, prompts: -images.mean((1, 2, 3))
    monkeypatch.setitem(sys.modules, "only_here", module)
    where = r"module 'only_here' cannot be imported \(No module named 'only_here'\) on node [\d.]+ of the Ray cluster; install it there, or"
    with pytest.raises(ValueError, match=f"^reward 'only_here:dark': {where} put its folder on the PYTHONPATH of `ray start`$"):
        one("a red circle", CONFIG.model_copy(update={"reward": "only_here:dark"}))


def test_mistakes_are_sentences(one, cluster, tiny_folder):
    with pytest.raises(ValueError, match="unknown reward 'beauty'"):
        one("a red circle", CONFIG.model_copy(update={"reward": "beauty"}))
    with pytest.raises(ValueError, match="height and width must be multiples of 4"):
        one("a red circle", CONFIG.model_copy(update={"height": 33}))
    with pytest.raises(ValueError, match="99 workers need as many CPUs, and the Ray cluster has 4"):
        Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray", workers=99)
    with pytest.raises(ValueError, match="the Ray cluster has no GPU"):
        Searcher.from_pretrained(str(tiny_folder), device="cuda", executor="ray")


def test_a_process_stays_with_the_cluster_that_it_is_connected_to(cluster, monkeypatch):
    monkeypatch.setattr("mcts_ray.actors.cluster.started_here", lambda: "127.0.0.1:1")  # another one on this machine
    assert find() == find("auto") == cluster.get_runtime_context().gcs_address
    with pytest.raises(ValueError, match="no Ray cluster answers at 127.0.0.1:1"):
        find("127.0.0.1:1")


def test_closing_ends_the_actors(cluster, tiny_folder):
    searcher = Searcher.from_pretrained(str(tiny_folder), device="cpu", executor="ray")
    pid = cluster.get(searcher.backend._actors[0].handle.place.remote())[2]
    searcher.close()
    deadline = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(pid)


def _alive(pid):
    from pathlib import Path

    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def by_ige(folder, **fields):
    return CONFIG.model_copy(update={"jump": "ige", "ige_model": str(folder), "ige_choice": "sample", "in_flight": 4} | fields)


def test_jumps_chosen_by_an_ige_give_the_local_tree(local, one, trained, tmp_path):  # noqa: F811
    config = by_ige(trained)
    here, there = local(PROMPTS[0], config), one(PROMPTS[0], config, out=tmp_path / "run")
    assert there.tree == here.tree and there.config.jump_table == here.config.jump_table
    asks = map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines())
    assert any(record.get("version") == 0 for record in asks)


@pytest.mark.slow
def test_the_ige_learns_in_the_background(one, trained, tmp_path):  # noqa: F811
    online = by_ige(trained, ige_choice="top-m", ige_online=str(tmp_path / "online"), budget=400, seeds=3)
    for _ in range(4):  # the trainer works in the background; what is left over is learned from in the next search
        one(PROMPTS[0], online)
        assert (tmp_path / "online" / "buffer.safetensors").exists()
        if (tmp_path / "online" / "online.jsonl").exists():
            break
    assert (tmp_path / "online" / "online.jsonl").read_text()
