"""What a step score costs, in NFE: the time to score a batch of states by the time of the denoiser's guided call at them.

    python -m benchmarks.step_cost [--sizes scenes sd15 sdxl] [--rounds 15]

The call and every score are measured in turn in one run; figures are medians over rounds of the ratio within a round, with quartiles.
value: the head, by features of that call, of states of one prompt as the trees of a search have them, or (scenes only) of a prompt each.
ige: what an untrained IGE of the default width says of all jumps, by pooled features of that call, or by the trunk of the value head
(scenes only). lrm: a network of its own, the U-Net up to its middle for the prompt and for the empty one. x0: the predicted image decoded
and scored by the image reward (scenes only: the models of the other sizes have tiny autoencoders). At sd15 and sdxl size all weights are
random, batches of one state on a CPU and of `--batch` on a GPU. On a CPU scenes is measured by one thread, as an actor of one core has
it, and by all: small layers gain less from threads than the U-Net does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import bars, write
from benchmarks.sized import PIPELINES
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.device import resolve_device
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.resolve import resolve_model
from mcts_ray.diffusion.taps import unet_channels
from mcts_ray.gain.evaluator import Evaluator, make_network, save_weights
from mcts_ray.gain.folder import TARGETS, finite
from mcts_ray.gain.folder import Config as IgeConfig
from mcts_ray.gain.reader import Pooled, Reader, Trunk, fingerprint
from mcts_ray.reward import resolve_reward
from mcts_ray.reward.lrm.model import LatentRewardModel
from mcts_ray.reward.lrm.scorer import LatentReward
from mcts_ray.reward.lrm.words import Words
from mcts_ray.reward.value.head import Config, ValueHead, default_taps
from mcts_ray.reward.value.network import Shape, ValueNetwork
from mcts_ray.search import Setting

LEVELS = 30
PROMPT = "a red circle left of a blue square"
GRID = 8
LIMITS = {"scenes": {"value": 0.10, "lrm": 0.45, "ige pooled": 0.02}, "sd15": {"lrm": 0.35, "ige pooled": 0.02}}  # what was asked for
JUMPS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["scenes"], choices=["scenes", *PIPELINES])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32, help="states at once, but one at sd15 and sdxl size on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default="step_cost", help="of the results file")
    args = parser.parse_args()
    device, rows, threads = resolve_device(args.device), {}, torch.get_num_threads()
    cpu = device.type == "cpu"
    for size in args.sizes:
        batch = args.batch if size == "scenes" or not cpu else 1
        alone = size == "scenes" and cpu and threads > 1
        for name, count in [(size, 1), (f"{size}, {threads} threads", threads)] if alone else [(size, threads)]:
            torch.set_num_threads(count)
            rows[name] = {"batch": batch, "threads": count, "limits": LIMITS.get(size, {})} | _measured(size, device, batch, args.rounds)
    write(args.name, {"rounds": args.rounds, "figures": "in NFE: [median, lower quartile, upper quartile] over rounds", "rows": rows})
    bars(args.name, {name: row["nfe"] for name, row in rows.items()}, {name: list(row["limits"].values()) for name, row in rows.items()})


@torch.no_grad()
def _measured(size: str, device: torch.device, batch: int, rounds: int) -> dict:
    """Seconds of a call, and each score's cost in NFE."""
    pipe = load_pipeline(resolve_model("scenes"), str(device)) if size == "scenes" else PIPELINES[size]().to(device)
    adapter = make_adapter(pipe)
    denoiser, (height, width) = Denoiser(adapter), adapter.default_size
    scorers = _scorers(size, denoiser)
    guidance = 3.0 if size == "scenes" else 7.5
    settings = [Setting(PROMPT, guidance=guidance, levels=LEVELS, height=height, width=width)] * batch
    x_BCHW = torch.randn(batch, *adapter.latent_shape(height, width), device=device)
    iges = {"ige pooled": _ige(denoiser, Pooled(adapter))}
    if size == "scenes":
        iges["ige trunk"] = _ige(denoiser, Trunk(adapter, "scenes"))
    taps = tuple(dict.fromkeys([*default_taps(adapter.unet), *(tap for one in iges.values() for tap in one.taps)]))
    level_B, nodes = [LEVELS // 2] * batch, [str(row) for row in range(batch)]
    prediction = denoiser.denoise(x_BCHW, level_B, settings, taps)
    work: dict[str, Callable[[], object]] = {"call": lambda: denoiser.denoise(x_BCHW, level_B, settings, taps)}
    for name, scorer in scorers.items():
        work[name] = lambda scorer=scorer: denoiser.score(scorer, x_BCHW, prediction, level_B, settings, range(batch))
    if size == "scenes":
        each = [replace(setting, prompt=f"{PROMPT} {row}") for row, setting in enumerate(settings)]
        work["value, a prompt each"] = lambda: denoiser.score(scorers["value"], x_BCHW, prediction, level_B, each, range(batch))
    for name, ige in iges.items():
        work[name] = partial(denoiser.gains, ige.source, nodes, x_BCHW, prediction, level_B, settings, range(batch))
    if size == "scenes":
        decoder, reward = Decoder(adapter), resolve_reward("scenes", str(device))
        work["x0"] = lambda: reward.score(decoder.decode(prediction.x0), [PROMPT] * batch)
    seconds = {name: [] for name in work}
    for round_ in range(rounds + 1):  # the first is not counted
        for name, do in work.items():
            began = time.perf_counter()
            do()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    call = np.array(seconds.pop("call"))
    nfe = {name: np.percentile(np.array(one) / call, (50, 25, 75)).round(4).tolist() for name, one in seconds.items()}
    return {"seconds_of_call": round(float(np.median(call)), 4), "nfe": nfe}


def _ige(denoiser: Denoiser, reader: Reader) -> Evaluator:
    """An untrained IGE by what `reader` reads."""
    log_snr = finite(denoiser.levels(LEVELS).log_snr_L.tolist())
    config = IgeConfig(
        model="", reward="", reader=reader.facts, features=reader.features, levels=LEVELS, grid="native", log_snr=tuple(log_snr),
        jumps=JUMPS, targets=TARGETS, units=dict.fromkeys(TARGETS, (0.0, 1.0)), worth=dict.fromkeys(TARGETS, 1.0),
        counts={level: (1,) * len(JUMPS) for level in range(1, LEVELS + 1)}, table=(1,) * LEVELS, price=0.0,
        generator=fingerprint(denoiser.adapter.unet),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config.write(Path(folder))
        save_weights(make_network(config), Path(folder) / "model.safetensors")
        return denoiser.evaluator(folder)


def _scorers(size: str, denoiser: Denoiser) -> dict:
    """The step scores that read states: those shipped with scenes, or of random weights."""
    if size == "scenes":
        return {name: denoiser.scorer(name, "scenes") for name in ("value", "lrm")}
    adapter = denoiser.adapter
    taps = {name: unet_channels(adapter.unet)[name] for name in default_taps(adapter.unet)}
    shape = Shape(taps, adapter.unet.config.in_channels, adapter.unet.config.cross_attention_dim, GRID)
    head = ValueHead(ValueNetwork(shape).to(adapter.device), Config(size, "", shape, 0.0, 1.0, ()))
    lrm = LatentRewardModel.from_pipeline(adapter.pipe).to(adapter.device, adapter.unet.dtype).requires_grad_(False)
    return {"value": head, "lrm": LatentReward(lrm, Words.of_pipeline(adapter.pipe))}


if __name__ == "__main__":
    main()
