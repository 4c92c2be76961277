"""mcts and psp on a real tiny pipeline: kept states, step scores and rewards through the local executor."""

import json

import numpy as np
import pytest
import torch

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import jump
from mcts_ray.diffusion.noise import draw
from mcts_ray.executor import Job
from mcts_ray.executor.local import LocalExecutor
from mcts_ray.gain import Constant
from mcts_ray.reward import resolve_reward
from mcts_ray.search import MCTS, PSP, Setting, journal
from mcts_ray.search.branching import Branching
from mcts_ray.tree import Pruning
from tests.tiny import SIZE, tiny_pipeline

T = 8
SETTING = Setting("a red circle", guidance=2.0, levels=T, height=SIZE, width=SIZE)


@pytest.fixture(scope="module")
def adapter():
    return StableDiffusionAdapter(tiny_pipeline())


def executor(adapter, reward="jpeg", batch_size=8):
    return LocalExecutor(Engine(Denoiser(adapter), batch_size), Decoder(adapter), resolve_reward(reward))


def mcts(id="m", budget=10 * T, **options):
    return MCTS(id, SETTING, budget, Branching(T, 0.6, 3), **{"seeds": 4, "beta": 0.5, "share": 0.3, **options})


class Journal:
    """Writes down what an executor does with one search."""

    def __init__(self):
        self.lines = []

    def asked(self, search, works):
        self.lines += [journal.asked(work) for work in works]

    def told(self, search, outcome):
        self.lines.append(journal.told(outcome, search.ledger.seconds))


def test_the_account_of_mcts_is_exact(adapter):
    job = Job(mcts(), in_flight=10, images=3)
    ex = executor(adapter)
    ex.run([job])
    search, ledger = job.search, job.search.ledger
    assert ledger.nfe == ex.engine.nfe == sum(node.level > 0 for node in search.tree) <= 10 * T
    assert ledger.model_forwards == 2 * ledger.nfe and ledger.decodes == ledger.reward_calls == len(search.finished)
    assert len(search.finished) > 8 and not search.errors and search.tree.root.in_flight == 0
    assert max(len(node.path()) for node in search.tree) > T / 2 and any(node.phi > 0 for node in search.tree)
    assert {c.node for c in search.best(3)} <= set(job.gallery) and len(ex.engine.store) == 0


@pytest.mark.parametrize("options", [dict(), dict(policy=Constant(3), stride=2), dict(scored=True)])
def test_images_of_a_tree_can_be_replayed_from_their_ids(adapter, options):
    """The best image walked again from its seed's noise alone, one denoiser call at a time."""
    job = Job(mcts(**options), in_flight=4)
    executor(adapter).run([job])
    best = job.search.best(1)[0].node
    denoiser = Denoiser(adapter)
    levels = denoiser.levels(T)
    path = job.search.tree[best].path()[-2::-1]  # from the seed to the image
    x = levels.start_scale * draw([path[0].id], (4, 8, 8))
    for above, node in zip(path, path[1:]):
        prediction = denoiser.denoise(x, [above.level], [SETTING])
        scales = (levels.alpha_L[[node.level]], levels.sigma_L[[node.level]])
        x = jump(prediction.x0, prediction.eps, *scales, torch.tensor([node.phi]), draw([node.id], (4, 8, 8)))
    image = Decoder(adapter).decode(x)[0].astype(int)
    assert np.abs(image - job.gallery[best]).max() <= 1


def test_step_scores_are_rewards_of_the_predicted_image_and_are_booked(adapter):
    search = mcts(scored=True)
    job = Job(search, in_flight=4, observer=Journal())
    executor(adapter).run([job])
    open_nodes = [node for node in search.tree if node.open]
    assert all(node.score is not None for node in open_nodes) and len(open_nodes) > 8
    assert search.ledger.decodes == search.ledger.reward_calls == len(open_nodes) + len(search.finished)
    root = search.tree.root.children[0]
    first = next(node for node in open_nodes if root in node.path())
    denoiser, x = Denoiser(adapter), draw([root.id], (4, 8, 8))
    levels = denoiser.levels(T)
    for level in range(T, first.level - 1, -1):
        prediction = denoiser.denoise(x, [level], [SETTING])
        x = levels.alpha_L[level - 1] * prediction.x0 + levels.sigma_L[level - 1] * prediction.eps
    image = Decoder(adapter).decode(prediction.x0)
    assert first.score == pytest.approx(resolve_reward("jpeg").score(image, ["a red circle"])[0].score, abs=0.05)


def test_step_scores_that_fail_are_missing_and_cost_nothing_else(adapter):
    calls = []

    def moody(images, prompts):
        calls.append(len(images))
        return [float("nan") if image[0, 0, 0] % 3 == 0 else float(image.mean()) for image in images]

    job = Job(PSP("p", SETTING, 8 * T), in_flight=20)
    executor(adapter, moody).run([job])
    search = job.search
    assert search.done and search.ledger.reward_calls == sum(calls) > search.ledger.decodes
    assert len(search.finished) + len(search.errors) >= 1 and len(search.errors) <= 4


def test_psp_prunes_and_finishes(adapter):
    search = PSP("p", SETTING, 8 * T)
    job = Job(search, in_flight=20, images=2)
    executor(adapter).run([job])
    sizes = [-(-len(search.trajectories) // 2**stage) for stage in range(3)]
    assert len(search.finished) == sizes[2] and search.ledger.decodes == sum(sizes)
    assert search.ledger.nfe == sum(n * (b - a) for n, (a, b) in zip(sizes, search.stages)) <= 8 * T


def test_two_runs_are_the_same_node_for_node_and_the_journal_rebuilds_them(adapter):
    def run():
        jobs = [Job(mcts("a"), 6, observer=Journal()), Job(mcts("b", scored=True), 3), Job(PSP("p", SETTING, 50), 9)]
        executor(adapter, batch_size=5).run(jobs)
        return jobs

    one, two = run(), run()
    for first, second in zip(one, two):
        assert first.search.nodes() == second.search.nodes()
    again = mcts("a")
    journal.replay(again, json.loads(json.dumps(one[0].observer.lines)))
    assert again.nodes() == one[0].search.nodes() and again.ledger.nfe == one[0].search.ledger.nfe


def test_second_order_rollouts_start_first_order_after_noise(adapter):
    search = mcts()
    search.setting = Setting(**{**SETTING.__dict__, "order": 2})
    job = Job(search, in_flight=4)
    executor(adapter).run([job])
    assert len(search.finished) > 8 and not search.errors


def test_all_images_in_the_gallery_of_a_tree(adapter):
    """The gallery follows `best`, which leaves near-identical images out; none of the final ones may be missing."""
    for seed in range(3):
        job = Job(mcts(seed=seed, seeds=2, budget=16 * T), in_flight=4, images=5)
        executor(adapter).run([job])
        assert {candidate.node for candidate in job.search.best(5)} | {job.first} == set(job.gallery)


def test_states_of_pruned_subtrees_are_let_go(adapter):
    """A store that never forgets holds every branching state of the running search; with pruning it holds those that are left."""
    search = mcts(budget=40 * T, seeds=8, pruning=Pruning(("stages", "memory"), cold=0.01))
    ex, forgotten = executor(adapter), []
    forget = ex.engine.store.forget
    ex.engine.store.forget = lambda id, nodes: (forgotten.extend(nodes), forget(id, nodes))
    ex.run([Job(search, in_flight=4)])
    assert search.pruning["evicted"] >= len(forgotten) >= len(set(forgotten)) > 0 and search.pruning["remade"] > 0 and not search.errors
    assert search.ledger.nfe == sum(node.level > 0 for node in search.tree) + search.pruning["remade"] <= 40 * T
    assert not search.errors and len(ex.engine.store) == 0


@pytest.mark.parametrize("cache, remade", [(None, False), (20 * 2**10, True)])
def test_states_over_the_limit_are_freed_and_made_again(adapter, cache, remade):
    """Room for ten states. The search is the same; only what is made again costs time, which is in no ledger."""
    ex = LocalExecutor(Engine(Denoiser(adapter), 8, cache), Decoder(adapter), resolve_reward("jpeg"))
    job, most = Job(mcts(), in_flight=2), []
    trim = ex.engine.trim
    ex.engine.trim = lambda: (trim(), most.append(ex.engine.store.size))
    ex.run([job])
    search = job.search
    assert not search.errors and search.ledger.nfe == ex.engine.nfe == sum(node.level > 0 for node in search.tree)
    assert (job.again > 0) is remade and len(ex.engine.store) == ex.engine.store.size == 0
    assert not remade or max(most) <= cache < 2 * 4 * 8 * 8 * 4 * sum(node.open for node in search.tree)
