"""LocalExecutor on a real tiny pipeline: the engine, the decoder and the reward are the ones of every search."""

from itertools import count

import numpy as np
import pytest

from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine
from mcts_ray.executor import Job
from mcts_ray.executor.local import LocalExecutor
from mcts_ray.reward import Reward, resolve_reward
from mcts_ray.gain.policy import Constant
from mcts_ray.search import ALGORITHMS, BestOfN, Setting
from mcts_ray.settings import make_config
from tests.tiny import SIZE, tiny_pipeline

T = 4


@pytest.fixture(scope="module")
def adapter():
    return StableDiffusionAdapter(tiny_pipeline())


def executor(adapter, reward="jpeg", batch_size=8, **options):
    reward = reward if isinstance(reward, Reward) else resolve_reward(reward)
    return LocalExecutor(Engine(Denoiser(adapter), batch_size), Decoder(adapter), reward, **options)


def search(id="s", prompt="a red circle", budget=6 * T, **options):
    setting = Setting(prompt, guidance=2.0, levels=T, height=SIZE, width=SIZE)
    return BestOfN(id, setting, budget, **options)


class Recorder:
    def __init__(self):
        self.events = []

    def asked(self, search, works):
        self.events += [("ask", work.id) for work in works]

    def told(self, search, outcome):
        self.events.append(("tell", outcome.work, outcome.reward, outcome.error))

    def halted(self, search, costs):
        self.events.append(("halt", sum(cost.nfe for cost in costs)))


def test_the_account_is_exact(adapter):
    job = Job(search(), in_flight=4, images=2)
    executor(adapter).run([job])
    ledger = job.search.ledger
    assert (ledger.nfe, ledger.decodes, ledger.reward_calls, ledger.model_forwards) == (6 * T, 6, 6, 2 * 6 * T)
    assert 0 < ledger.denoiser_seconds <= ledger.seconds
    assert len(job.search.finished) == 6


def test_rewards_that_run_a_network_are_booked(adapter):
    class Scorer:
        forwards = 1

        def __call__(self, images, prompts):
            return np.arange(len(prompts), dtype=float)

    job = Job(search(), in_flight=4)
    executor(adapter, Reward("scorer", Scorer())).run([job])
    assert job.search.ledger.model_forwards == 2 * 6 * T + 6


def test_the_gallery_holds_the_best_and_the_first_image(adapter):
    job = Job(search(), in_flight=3, images=2)
    executor(adapter).run([job])
    best = [candidate.node for candidate in job.search.best(2)]
    assert set(job.gallery) == {*best, job.first}
    assert all(image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 for image in job.gallery.values())
    scores = resolve_reward("jpeg").score(np.stack([job.gallery[node] for node in best]), ["", ""])
    assert [answer.score for answer in scores] == [candidate.reward for candidate in job.search.best(2)]


def test_images_are_those_of_the_stock_pipeline(adapter):
    """The first trajectory, started from its own noise, is what diffusers makes of that noise."""
    from mcts_ray.diffusion.noise import draw
    from mcts_ray.search.ids import seed_id

    job = Job(search(budget=T), in_flight=1)
    executor(adapter).run([job])
    z = draw([seed_id(0, 0)], adapter.latent_shape(SIZE, SIZE))
    stock = adapter.pipe(
        "a red circle", latents=z, num_inference_steps=T, guidance_scale=2.0, negative_prompt="", output_type="np"
    ).images[0]
    assert np.abs(np.round(stock * 255) - job.gallery[job.first]).max() <= 1


def test_two_runs_tell_the_same_in_the_same_order(adapter):
    def run(batch_size):
        jobs = [Job(search(id, prompt), 2, observer=Recorder()) for id, prompt in [("a", "a red circle"), ("b", "a ring")]]
        executor(adapter, batch_size=batch_size).run(jobs)
        return [job.observer.events for job in jobs]

    assert run(5) == run(5)


def test_searches_share_batches(adapter):
    calls = []
    ex = executor(adapter, batch_size=8)
    forward = adapter.forward
    adapter.forward = lambda x, t, e: (calls.append(len(x)), forward(x, t, e))[1]
    try:
        jobs = [Job(search(f"s{i}", budget=2 * T), in_flight=2) for i in range(4)]
        ex.run(jobs)
    finally:
        adapter.forward = forward
    assert calls == [16] * T  # 4 searches of 2 units, guided, in one call per level
    assert all(job.search.ledger.nfe == 2 * T for job in jobs)


def test_turns_are_fair_when_the_batch_is_short(adapter):
    recorder = Recorder()  # one for all: the order of asks across searches
    jobs = [Job(search(f"s{i}", budget=2 * T), in_flight=2, observer=recorder) for i in range(3)]
    executor(adapter, batch_size=4).run(jobs)
    asks = [event[1].split("/")[0] for event in recorder.events if event[0] == "ask"]
    assert asks == ["s0", "s1", "s2", "s0", "s1", "s2"]


def test_in_flight_is_a_cap(adapter):
    job = Job(search(), in_flight=2, observer=Recorder())
    executor(adapter).run([job])
    out = np.cumsum([1 if event[0] == "ask" else -1 for event in job.observer.events])
    assert out.max() == 2


def test_a_bad_reward_fails_its_unit_and_nothing_else(adapter):
    calls = count()

    def moody(images, prompts):
        if next(calls) == 0:
            return [float("nan"), *[1.0] * (len(prompts) - 1)]
        if len(prompts) == 1:
            raise RuntimeError("still no")
        return [1.0] * len(prompts)

    job = Job(search(), in_flight=3)
    executor(adapter, resolve_reward(moody)).run([job])
    assert len(job.search.finished) == 5
    assert job.search.errors == ["reward 'moody' raised RuntimeError: still no"]
    assert job.search.ledger.reward_calls == 7 and job.search.ledger.nfe == 6 * T


@pytest.mark.parametrize("always", [False, True])
def test_latents_that_are_not_finite_are_walked_again_and_then_fail_their_unit(adapter, always):
    """The first seed's own state is poisoned, or, once, the first row of a call."""
    from mcts_ray.diffusion.noise import draw
    from mcts_ray.search.ids import seed_id

    forward, calls = adapter.forward, count()
    z = draw([seed_id(0, 0)], adapter.latent_shape(SIZE, SIZE))[0]

    def broken(x, t, embedding):
        output = forward(x, t, embedding)
        if always:
            output[[bool((row == z).all()) for row in x]] = float("nan")
        elif next(calls) == 1:
            output[0] = float("nan")
        return output

    adapter.forward = broken
    try:
        job = Job(search(), in_flight=3)
        executor(adapter).run([job])
    finally:
        adapter.forward = forward
    ledger, failed = job.search.ledger, int(always)
    assert len(job.search.finished) == 6 - failed and len(job.search.errors) == failed
    assert all("non-finite" in error for error in job.search.errors)
    assert ledger.nfe == (6 - failed) * T + failed and ledger.decodes == 6 - failed
    assert job.again == (1 if always else 2) and ledger.model_forwards == 2 * (ledger.nfe + job.again)


def test_out_of_time_abandons_and_books_what_was_spent(adapter):
    now = count()  # every look at the clock is one second, a loop of the executor at most ten
    job = Job(search(budget=50 * T, max_seconds=60.0), in_flight=3, observer=Recorder())  # ends in the middle of three walks
    executor(adapter, clock=lambda: float(next(now))).run([job])
    ledger, spent = job.search.ledger, job.observer.events[-1]
    assert job.search.done and 54.0 < ledger.seconds <= 74.0
    assert spent[0] == "halt" and spent[1] > 0
    assert ledger.nfe == len(job.search.finished) * T + spent[1]
    assert 0 < len(job.search.finished) < 50


@pytest.mark.parametrize("algorithm", ["best-of-n", "psp", "beam"])
def test_a_slow_reward_is_not_asked_beyond_the_time_there_is(adapter, algorithm):
    """Each image takes ten seconds to reward, which is known after the first one."""
    time = [0.0]

    def clock():
        time[0] += 0.01
        return time[0]

    def slow(images, prompts):
        time[0] += 10 * len(images)
        return [0.5] * len(images)

    config = make_config({"algorithm": algorithm, "levels": T, "budget": 4000, "max_seconds": 200, "reward": "jpeg"})
    config = config.resolved(False, (SIZE, SIZE), "jpeg")
    setting = Setting("a red circle", guidance=2.0, levels=T, height=SIZE, width=SIZE)
    job = Job(ALGORITHMS[algorithm].from_config("s", setting, config, lambda above, level: 0.5, Constant(1)), in_flight=8)
    executor(adapter, resolve_reward(slow), clock=clock).run([job])
    ledger = job.search.ledger
    assert job.search.done and ledger.seconds <= 200 and ledger.nfe < 4000
    assert ledger.seconds > 100


def test_ctrl_c_keeps_what_was_found(adapter):
    def interrupt(progress):
        if progress.images >= 2:
            raise KeyboardInterrupt

    job, other = Job(search(), 2, observer=Recorder()), Job(search("other", budget=3 * T), 1)
    ex = executor(adapter)
    with pytest.raises(KeyboardInterrupt):
        ex.run([job, other], interrupt)
    assert job.search.done and other.search.done and ex.engine.idle
    assert job.gallery and job.search.best(1)


def test_units_waiting_for_their_reward_are_booked_on_ctrl_c(adapter):
    def interrupted(images, prompts):
        raise KeyboardInterrupt

    job = Job(search(), in_flight=3)
    with pytest.raises(KeyboardInterrupt):
        executor(adapter, resolve_reward(interrupted)).run([job])
    assert (job.search.ledger.nfe, job.search.in_flight) == (3 * T, 0)


def test_progress_counts_units_under_way(adapter):
    seen = []
    executor(adapter, batch_size=2).run([Job(search(), 2), Job(search("b", "a ring"), 2)], seen.append)
    assert seen[0].nfe == 2 and seen[0].best == (None, None) and seen[0].budget == 12 * T
    assert seen[-1].nfe == 12 * T and seen[-1].images == 12 and seen[-1].running == 0
    assert [p.nfe for p in seen] == sorted(p.nfe for p in seen)


def test_other_sizes_and_levels_run_together(adapter):
    small, large = Job(search("a"), 2), Job(search("b"), 2)
    large.search.setting = Setting("a ring", guidance=1.0, levels=T, height=2 * SIZE, width=SIZE)
    executor(adapter).run([small, large])
    assert large.gallery[large.first].shape == (2 * SIZE, SIZE, 3)
    assert large.search.ledger.model_forwards == 6 * T


def test_units_that_end_above_level_zero_are_told_without_an_image(adapter):
    """The engine keeps the state of a one-edge walk, and a second unit finishes from it."""
    from mcts_ray.search import Edge, Search, Work
    from mcts_ray.search.ids import jump_id, seed_id

    class TwoUnits(Search):
        def __init__(self, setting):
            super().__init__("two", setting, budget=9)
            self.outcomes = []

        @classmethod
        def from_config(cls, id, setting, config, phi):
            return cls(setting)

        def _propose(self):
            seed = seed_id(0, 0)
            if not self.outcomes and not self.in_flight:
                return Work("one", self.id, self.setting, None, "seed", (Edge(seed, T),), keep=(seed,))
            if len(self.outcomes) == 1 and not self.in_flight:
                last = jump_id(seed, T)
                return Work("two", self.id, self.setting, seed, "jump", (Edge(last, 0),))
            return None

        def _apply(self, work, outcome):
            self.outcomes.append(outcome)

        def _spent(self):
            return len(self.outcomes) == 2

        def nodes(self):
            return []

    job = Job(TwoUnits(search().setting), in_flight=4)
    ex = executor(adapter)
    ex.run([job])
    one, two = job.search.outcomes
    assert one.reward is None and one.scores == () and one.cost.nfe == 1
    assert two.reward is not None and two.cost.nfe == 0 and two.cost.decodes == 1
    assert len(ex.engine.store) == 0
