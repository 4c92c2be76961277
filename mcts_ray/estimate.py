"""What a search will cost, told before it is started (`--dry-run`)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mcts_ray.auto import choose
from mcts_ray.checks import choose_reward, with_table
from mcts_ray.config import AYS_STEPS, SearchConfig
from mcts_ray.diffusion.resolve import Model
from mcts_ray.executor import Job
from mcts_ray.executor.in_process import InProcess
from mcts_ray.executor.plan import build
from mcts_ray.gain import make_policy
from mcts_ray.gain.folder import Config, find_ige
from mcts_ray.search import ALGORITHMS, Setting
from mcts_ray.search.trajectories import no_noise
from mcts_ray.search.rehearsal import rehearse


@dataclass(frozen=True)
class Estimate:
    """The cost of a request, all prompts together; seconds and memory (bytes) as measured on one batch, else None."""

    prompts: int
    nfe: int
    decodes: int
    seconds: float | None = None
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `--dry-run --json` prints it."""
        return {"dry_run": True, **asdict(self)}


def count(prompts: Sequence[str], config: SearchConfig, model: str = "") -> Estimate:
    """Cost in NFE and images, without the model: the search is carried out with made-up rewards."""
    config = choose(config, model).config
    if config.jump == "ige":
        config = with_table(config, Config.read(find_ige(model, config.ige_model)))
    config = config.resolved(scenes=False, size=(8, 8), reward=None)
    apart = -(-config.levels // AYS_STEPS)
    policy = make_policy(config, lambda: range(config.levels, 0, -apart))
    setting = Setting("", levels=config.levels, step_reward=config.step_reward if config.scores_in_engine else "x0")
    search = ALGORITHMS[config.algorithm].from_config("dry", setting, config, no_noise, policy)
    search.record_scores = config.record_scores
    ledger = rehearse(search, config.in_flight)
    return Estimate(len(prompts), len(prompts) * ledger.nfe, len(prompts) * ledger.decodes)


def measure(backend: InProcess, prompts: Sequence[str], config: SearchConfig) -> Estimate:
    """The same, with time and memory from a batch of one-call trajectories as large as the real ones will be."""
    known = count(prompts, config, backend.model)
    plan = backend.plan(prompts, config, None)
    reward = choose_reward(backend.model, config.reward, None)
    config, executor = plan.config, backend.executor(plan, reward)
    batch = min(executor.engine.batch_size, len(prompts) * min(config.in_flight, config.budget // config.trajectory_nfe))
    probe = config.model_copy(update={"k": config.levels, "budget": batch, "max_decodes": None, "max_seconds": None})
    probe = probe.model_copy(update={"algorithm": "best-of-n", "jump": "constant", "record_scores": False})
    for _ in range(2):  # the first warms up
        search = build(backend.model, backend.denoiser, "probe", prompts[0], probe)
        executor.run([Job(search, batch)])
    ledger = search.ledger
    per_nfe = ledger.denoiser_seconds / ledger.nfe
    per_image = (ledger.seconds - ledger.denoiser_seconds) / ledger.decodes
    seconds = known.nfe * per_nfe + known.decodes * per_image
    if config.max_seconds is not None:
        seconds = min(seconds, len(prompts) * config.max_seconds)
    return Estimate(known.prompts, known.nfe, known.decodes, round(seconds, 2), _peak_memory(backend.adapter.device))


def weights_are_here(model: Model) -> bool:
    """Whether the weights are on this machine; a hub id is looked up in the local cache only."""
    if model.local:
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model.source, "unet/diffusion_pytorch_model.safetensors"), str)


def _peak_memory(device) -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
