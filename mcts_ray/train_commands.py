"""The commands `mcts-ray train`: scenes, fusion, reward, gain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

train = typer.Typer(rich_markup_mode="markdown", help="Train the networks that are shipped with mcts-ray.")


@train.callback(invoke_without_command=True)
def _train(context: typer.Context):
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@train.command("scenes")
def train_scenes(
    part: Annotated[str, typer.Option(help="autoencoder, unet, scorer or all.")] = "all",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where checkpoints and weights go.")] = Path("runs/scenes"),
    steps: Annotated[Optional[int], typer.Option(min=1, help="Training steps. [those of the shipped weights]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and initialisation.")] = 0,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads. [all]")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in DIR.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> int:
    """Train the embedded world: its autoencoder, its U-Net with text encoder, and its scorer."""
    from mcts_ray.report.run import check_writable
    from mcts_ray.report.terminal import training_line

    check_writable(out)
    from mcts_ray.diffusion.quiet import quiet

    with quiet():
        from mcts_ray.scenes.train import run

    def report(part: str, progress) -> None:
        typer.echo(training_line(part, progress), err=True)

    folder = run(part, out, seed=seed, resume=resume, steps=steps, threads=threads, report=report)
    typer.echo(json.dumps({"out": str(folder)}) if as_json else folder)
    return 0


@train.command("fusion")
def train_fusion(
    model: Annotated[str, typer.Option(help="scenes, a hub id or a local folder.")] = "scenes",
    prompts: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Prompts, one a line. [scenes: its training captions]")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where states, checkpoints and weights go.")] = Path("runs/fusion"),
    trajectories: Annotated[int, typer.Option(min=2, help="Trajectories whose states are learned from.")] = 512,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Training steps. [700]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and initialisation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where the states are made.")] = "auto",
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads. [all]")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in DIR.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> int:
    """Train the network that maps fused features back to a latent (fuse decoder)."""
    from mcts_ray.diffusion.resolve import resolve_model
    from mcts_ray.report.run import check_writable
    from mcts_ray.report.terminal import training_line
    from mcts_ray.request import check_where, read_prompts

    check_where("local", device, "fp32", None, None)
    texts = read_prompts(prompts) if prompts else []
    if not texts and model != "scenes":
        raise ValueError(f"the states of {model} need prompts; give a file of them with --prompts")
    resolve_model(model)
    check_writable(out)
    from mcts_ray.fusion.train import run

    def report(progress) -> None:
        typer.echo(training_line("fusion", progress), err=True)

    options = dict(trajectories=trajectories, steps=steps, seed=seed, resume=resume, device=device, threads=threads)
    folder = run(model, out, prompts=texts, report=report, **options)
    typer.echo(json.dumps({"out": str(folder)}) if as_json else folder)
    return 0


@train.command("reward")
def train_reward(
    kind: Annotated[str, typer.Option(help="lrm: latent reward model, from pairs of images; value: value head, from trajectories.")],
    model: Annotated[str, typer.Option(help="The generator: scenes, a hub id or a local folder.")] = "scenes",
    pairs: Annotated[Optional[Path], typer.Option(metavar="PATH", help="For lrm: a Parquet file or a folder (docs/step-rewards.md). For value: besides --data, a folder of scored images.")] = None,
    data: Annotated[Optional[Path], typer.Option(metavar="DIR", help="For value: the folder of trajectories.")] = None,
    out: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Where checkpoints and the trained model go.")] = None,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Training steps. [those of the recipe]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and initialisation.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in DIR.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads. [all]")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Make the training data with the generator, and stop.")] = False,
    reward: Annotated[Optional[str], typer.Option(help="With --collect: the image reward that labels them. [scenes]")] = None,
    prompts: Annotated[Optional[Path], typer.Option(metavar="FILE", help="With --collect: one a line. [training prompts of scenes]")] = None,
    count: Annotated[Optional[int], typer.Option(min=2, help="With --collect: the first of the prompts only.")] = None,
    images: Annotated[Optional[int], typer.Option(min=2, help="With --collect for lrm: images of each prompt. [8]")] = None,
    renders: Annotated[Optional[int], typer.Option(min=0, help="With --collect for lrm: further captions of scenes whose images are rendered.")] = None,
    trajectories: Annotated[Optional[int], typer.Option(min=2, help="With --collect for value: of each prompt, half with noise. [8]")] = None,
    levels: Annotated[Optional[int], typer.Option(min=2, help="With --collect: T. [lrm 20, value 30]")] = None,
    guidance: Annotated[Optional[float], typer.Option(min=1, help="With --collect: guidance scale. [the model's]")] = None,
    limit: Annotated[Optional[float], typer.Option(min=0, metavar="GB", help="With --collect for value: what may be written. [8]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> int:
    """Train a step score: a reward of noisy states, for searches with step_reward lrm or value."""
    from mcts_ray.training import make_training

    amounts = dict(count=count, images=images, renders=renders, trajectories=trajectories, levels=levels, guidance=guidance, limit=limit)
    run = dict(steps=steps, seed=seed, resume=resume, threads=threads, reward=reward)
    where = dict(model=model, pairs=pairs, data=data, out=out, device=device, collect=collect, prompts_file=prompts)
    training = make_training(kind, amounts=amounts, **where, **run)
    from mcts_ray.report.terminal import training_line

    def report(*what) -> None:
        line = what[0] if len(what) == 1 and isinstance(what[0], str) else training_line(kind, what[-1])
        typer.echo(line, err=True)

    folder = training.carry_out(report)
    typer.echo(json.dumps({"out": str(folder)}) if as_json else folder)
    return 0


@train.command("gain")
def train_gain(
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of transitions, to be made (--collect) or learned from.")],
    model: Annotated[str, typer.Option(help="The generator: scenes, a hub id or a local folder.")] = "scenes",
    out: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Where checkpoints, network and table go.")] = None,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Training steps. [those of the recipe]")] = None,
    price: Annotated[Optional[float], typer.Option(min=0, help="Reward per call the table is for. [slope of best-of-8]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and initialisation.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in DIR.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads. [all]")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Make the transitions with the generator, and stop.")] = False,
    reward: Annotated[Optional[str], typer.Option(help="With --collect: the image reward. [scenes]")] = None,
    prompts: Annotated[Optional[Path], typer.Option(metavar="FILE", help="With --collect: one a line. [training prompts of scenes]")] = None,
    count: Annotated[Optional[int], typer.Option(min=2, help="With --collect: the first of the prompts only.")] = None,
    trajectories: Annotated[Optional[int], typer.Option(min=2, help="With --collect: of each prompt, half with noise. [2]")] = None,
    states: Annotated[Optional[int], typer.Option(min=1, help="With --collect: states of each trajectory. [4]")] = None,
    noises: Annotated[Optional[int], typer.Option(min=1, help="With --collect: children by each jump, the first without noise. [3]")] = None,
    stride: Annotated[Optional[int], typer.Option(min=1, help="With --collect: levels per call of completions. [2]")] = None,
    phi: Annotated[Optional[float], typer.Option(help="With --collect: full angle of the children's noise. [1.2]")] = None,
    schedule: Annotated[Optional[str], typer.Option(help="With --collect: constant, taper, linear or cosine. [constant]")] = None,
    levels: Annotated[Optional[int], typer.Option(min=2, help="With --collect: T. [30]")] = None,
    grid: Annotated[Optional[str], typer.Option(help="With --collect: where the levels lie. [native]")] = None,
    step_reward: Annotated[Optional[str], typer.Option(help="With --collect: scores of reward_rate: x0, lrm or value. [x0]")] = None,
    step_model: Annotated[Optional[str], typer.Option(help="With --collect: folder of the lrm or value network.")] = None,
    trunk: Annotated[Optional[str], typer.Option(metavar="DIR", help="With --collect: a value head to be read in place of pooled features.")] = None,
    guidance: Annotated[Optional[float], typer.Option(min=1, help="With --collect: guidance scale. [the model's]")] = None,
    limit: Annotated[Optional[float], typer.Option(min=0, metavar="GB", help="With --collect: what may be written. [4]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> int:
    """Train the Information Gain Evaluator, which chooses jump sizes (jump ige), and the table of best jumps."""
    from mcts_ray.gain.request import make_gain_training

    run = dict(model=model, data=data, collect=collect, prompts_file=prompts, seed=seed, resume=resume, device=device, threads=threads)
    learning = dict(out=out, steps=steps, price=price)
    collecting = dict(reward=reward, count=count, trajectories=trajectories, states=states, noises=noises, stride=stride)
    collecting |= dict(phi=phi, schedule=schedule, levels=levels, grid=grid, step_reward=step_reward, step_model=step_model, trunk=trunk)
    collecting |= dict(guidance=guidance, limit=limit)
    training = make_gain_training(**run, **learning, **collecting)
    from mcts_ray.report.terminal import training_line

    def report(what) -> None:
        typer.echo(what if isinstance(what, str) else training_line("ige", what), err=True)

    folder = training.carry_out(report)
    typer.echo(json.dumps({"out": str(folder)}) if as_json else folder)
    return 0
