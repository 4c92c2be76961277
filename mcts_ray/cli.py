"""The command line. Exit codes: 0 done, 2 the user's mistake (one sentence on stderr), 1 anything else."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Optional

import typer

import mcts_ray
from mcts_ray.service import commands as service
from mcts_ray.train_commands import train

UsageError = typer.BadParameter.__base__
INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt that reaches it

app = typer.Typer(  # typer's other markup swallows what is in brackets, which here are defaults
    name="mcts-ray", rich_markup_mode="markdown", add_completion=False, help="Inference-time search for text-to-image diffusion models."
)
app.add_typer(train, name="train")
service.register(app)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False):
    if version:
        typer.echo(mcts_ray.__version__)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def search(
    prompts: Annotated[Optional[list[str]], typer.Argument(metavar="PROMPT...", help="What to make images of.")] = None,
    prompts_file: Annotated[Optional[Path], typer.Option("--prompts", metavar="FILE", help="More prompts, one a line.")] = None,
    negative_prompt: Annotated[Optional[str], typer.Option(help="What the images should not show.")] = None,
    images: Annotated[Optional[int], typer.Option(metavar="N", help="How many of the best images to keep. [4]")] = None,
    height: Annotated[Optional[int], typer.Option(help="Pixels. [as the model was trained]")] = None,
    width: Annotated[Optional[int], typer.Option(help="Pixels. [as the model was trained]")] = None,
    model: Annotated[str, typer.Option(help="scenes, a hub id or a local folder.")] = "scenes",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    algorithm: Annotated[Optional[str], typer.Option(help="best-of-n, psp, mcts, fk, svdd, beam, bfs, dfs, smc-tempered, dts, dts-star, rbf, nts, demon, random, zero-order, or auto: what the comparisons say is best. [best-of-n]")] = None,
    reward: Annotated[Optional[str], typer.Option(help="scenes, jpeg, pickscore, clipscore, hps, aesthetic, NAME@FOLDER, MODULE:FUNCTION, or a sum as in pickscore:1,jpeg:0.2.")] = None,
    budget: Annotated[Optional[int], typer.Option(metavar="NFE", help="Denoiser evaluations per prompt. [8 x levels]")] = None,
    max_seconds: Annotated[Optional[float], typer.Option(help="Wall time per prompt. [no limit]")] = None,
    max_decodes: Annotated[Optional[int], typer.Option(help="Finished images per prompt. [no limit]")] = None,
    levels: Annotated[Optional[int], typer.Option(help="T, denoising levels of a full trajectory. [30]")] = None,
    guidance: Annotated[Optional[float], typer.Option(help="Guidance scale. [3.0 for scenes, else 7.5]")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of all noise. [0]")] = None,
    in_flight: Annotated[Optional[int], typer.Option(metavar="M", help="Units in flight per prompt. [budget // 8]")] = None,
    executor: Annotated[str, typer.Option(help="ray: by actors; local: in this process.")] = "ray",
    workers: Annotated[Optional[int], typer.Option(min=1, metavar="N", help="Denoisers. [one for each GPU, at least 1]")] = None,
    address: Annotated[
        Optional[str], typer.Option(metavar="HOST:PORT", help="Ray cluster. [RAY_ADDRESS, else one on this machine, else a new one]")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Run directory. [runs/TIME-PROMPT]")] = None,
    config: Annotated[Optional[Path], typer.Option(metavar="FILE", help="SearchConfig fields in JSON or TOML.")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="Any SearchConfig field.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Search for the best images of each PROMPT within a compute budget."""
    from mcts_ray.request import make_request

    options = dict(negative_prompt=negative_prompt, images=images, height=height, width=width, algorithm=algorithm)
    options |= dict(reward=reward, budget=budget, max_seconds=max_seconds, max_decodes=max_decodes, levels=levels)
    options |= dict(guidance=guidance, seed=seed, in_flight=in_flight)
    request = make_request(
        prompts or [],
        prompts_file=prompts_file,
        config_file=config,
        options=options,
        settings=set_ or [],
        model=model,
        device=device,
        dtype=dtype,
        executor=executor,
        workers=workers,
        address=address,
        out=out,
    )
    return _dry_run(request, as_json) if dry_run else _search(request, as_json)


def _search(request, as_json: bool) -> int:
    """Carry out a checked request; what was found before Ctrl-C is kept and printed too."""
    from mcts_ray.executor.backend import ActorsLost
    from mcts_ray.report.run import summary
    from mcts_ray.report.terminal import live, result_text
    from mcts_ray.result import SearchInterrupted
    from mcts_ray.searcher import Searcher

    interrupted = False
    where = {"executor": request.executor, "workers": request.workers, "address": request.address}
    with Searcher.from_pretrained(request.model, request.device, request.dtype, **where) as searcher, live() as on_progress:
        try:
            results = searcher.many(request.prompts, request.config, on_progress, request.outs)
        except SearchInterrupted as interrupt:
            interrupted, results = True, interrupt.results
        except ActorsLost as error:
            begun = [out for out in request.outs if out.exists()]
            words = f"; what was found is in {_listed(begun)}, and `mcts-ray resume RUN` goes on" if begun else ""
            raise ActorsLost(f"{error}{words}") from None
    if as_json:
        objects = [summary(result) for result in results]
        typer.echo(json.dumps(objects if len(objects) > 1 else objects[0], ensure_ascii=False))
    else:
        typer.echo("\n".join(result_text(result) for result in results))
    if interrupted:
        _say(f"interrupted; what was found is in {_listed(request.outs)}; `mcts-ray resume RUN` goes on")
    for result in results:
        if result.failure and not interrupted:
            _say(result.failure)
    return int(interrupted or any(result.failure for result in results))


def _dry_run(request, as_json: bool) -> int:
    """Print what a checked request would cost; time and memory are measured on one batch if the weights are here."""
    from mcts_ray.estimate import count, measure, weights_are_here
    from mcts_ray.report.terminal import estimate_text
    from mcts_ray.searcher import Searcher

    if weights_are_here(request.model):
        searcher = Searcher.from_pretrained(request.model, request.device, request.dtype)
        estimate = measure(searcher.backend, request.prompts, request.config)
    else:
        estimate = count(request.prompts, request.config, request.model.name)
    typer.echo(json.dumps(estimate.to_dict()) if as_json else estimate_text(estimate))
    return 0


@app.command()
def compare(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the comparison; the same command goes on there.")],
    arm: Annotated[Optional[list[str]], typer.Option(metavar="NAME[,FIELD=VALUE...]", help="A search to compare; the first is the reference. [best-of-n, psp, mcts]")] = None,
    times: Annotated[Optional[str], typer.Option(metavar="N,N...", help="Budgets in multiples of T. [8]")] = None,
    prompts: Annotated[Optional[Path], typer.Option(metavar="FILE", help="JSONL with a prompt field, CSV or TSV with a Prompts column, or one a line.")] = None,
    set_name: Annotated[Optional[list[str]], typer.Option(help="Prompts of scenes: easy, medium or hard. [hard]")] = None,
    split: Annotated[str, typer.Option(help="Of scenes: test or validation.")] = "test",
    count: Annotated[Optional[int], typer.Option(min=1, help="Prompts of each set. [20]")] = None,
    seeds: Annotated[Optional[int], typer.Option(min=1, help="Searches of each prompt. [1]")] = None,
    levels: Annotated[int, typer.Option(min=1, help="T, denoising levels of a full trajectory.")] = 30,
    images: Annotated[int, typer.Option(min=1, help="Images that a search returns.")] = 4,
    model: Annotated[str, typer.Option(help="scenes, a hub id or a local folder.")] = "scenes",
    reward: Annotated[Optional[str], typer.Option(help="The guide: what searches see. [scenes]")] = None,
    gold: Annotated[Optional[str], typer.Option(help="The judge they never see: a reward, MODULE:FUNCTION or verifier. [verifier]")] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="Each arm once more, guided by the gold judge.")] = False,
    pool: Annotated[Optional[int], typer.Option(min=0, metavar="N", help="Finished samples per prompt for best-of-n of every n; 0: none. [0, with --full 128]")] = None,
    policy: Annotated[Optional[list[str]], typer.Option(metavar="FIELD=VALUE", help="Jump policies of pools. [k=1, k=2, k=4, jump=ays]")] = None,
    validation: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Prompts to choose the policy on. [scenes: those of its split]")] = None,
    validation_count: Annotated[Optional[int], typer.Option(min=1, help="How many of them. [40]")] = None,
    pools: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Folder of pools, to share them. [DIR/pools]")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="A SearchConfig field of all arms.")] = None,
    group: Annotated[int, typer.Option(min=1, help="Prompts that are searched together and kept together.")] = 30,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    executor: Annotated[str, typer.Option(help="ray: by actors; local: in this process.")] = "ray",
    workers: Annotated[Optional[int], typer.Option(min=1, metavar="N", help="Denoisers. [one for each GPU, at least 1]")] = None,
    address: Annotated[Optional[str], typer.Option(metavar="HOST:PORT", help="Ray cluster.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All algorithms with both eta; 2, 4, 8, 16 T; 100 prompts; 3 seeds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> int:
    """Compare searches at equal cost: gold and guide apart, with intervals, and the compute that best-of-n would need."""
    from mcts_ray.compare.request import make_comparison

    scale = dict(times=times, prompts_file=prompts, set_names=set_name or [], split=split, count=count, seeds=seeds)
    scale |= dict(levels=levels, images=images, oracle=oracle, full=full, group=group)
    judges = dict(model=model, reward=reward, gold=gold, settings=set_ or [])
    reference = dict(pool=pool, policies=policy or [], validation_file=validation, validation_count=validation_count, pools=pools)
    where = dict(device=device, dtype=dtype, executor=executor, workers=workers, address=address)
    comparison = make_comparison(arm or [], out=out, **scale, **judges, **reference, **where)
    from mcts_ray.compare.carry_out import carry_out
    from mcts_ray.report.terminal import comparison_text

    try:
        summary = carry_out(comparison, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        _say(f"interrupted; the same command goes on in {out}")
        return 1
    typer.echo(json.dumps({"out": str(out), **summary}) if as_json else comparison_text(summary, out))
    return 0


@app.command()
def audit(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the audit; the same command goes on there.")],
    step_reward: Annotated[Optional[list[str]], typer.Option(metavar="NAME", help="A step score to audit: x0, lrm or value; the first is the reference. [x0]")] = None,
    step_model: Annotated[Optional[list[str]], typer.Option(metavar="NAME=PATH", help="Model of a step score. [the one shipped]")] = None,
    prompts: Annotated[Optional[Path], typer.Option(metavar="FILE", help="JSONL with a prompt field, CSV or TSV with a Prompts column, or one a line.")] = None,
    set_name: Annotated[Optional[str], typer.Option(help="Prompts of scenes: easy, medium or hard. [hard]")] = None,
    split: Annotated[str, typer.Option(help="Of scenes: test, validation or train.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Prompts.")] = 20,
    trajectories: Annotated[int, typer.Option(min=1, help="Finished samples of each prompt.")] = 16,
    levels: Annotated[int, typer.Option(min=1, help="T, denoising levels of a full trajectory.")] = 30,
    siblings: Annotated[str, typer.Option(metavar="LxCxM", help="Levels x children x completions of one state; 0: none.")] = "4x4x4",
    pool: Annotated[str, typer.Option(metavar="PxN", help="Prompts x samples for best-of-n; 0: none.")] = "10x64",
    paths: Annotated[str, typer.Option(metavar="PxK", help="Prompts x noises whose jump paths are all walked; 0: none.")] = "10x2",
    path_levels: Annotated[int, typer.Option(min=2, max=12, help="T of those.")] = 8,
    calibrate: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Write a calibration of the step score; not on test prompts.")] = None,
    model: Annotated[str, typer.Option(help="scenes, a hub id or a local folder.")] = "scenes",
    reward: Annotated[Optional[str], typer.Option(help="The guide: what searches see. [scenes]")] = None,
    gold: Annotated[Optional[str], typer.Option(help="The judge they never see: a reward, MODULE:FUNCTION or verifier. [verifier]")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="guidance, negative_prompt, height, width, seed, grid, order or phi.")] = None,
    group: Annotated[int, typer.Option(min=1, help="Prompts that are measured together and kept together.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    executor: Annotated[str, typer.Option(help="ray: by actors; local: in this process.")] = "ray",
    workers: Annotated[Optional[int], typer.Option(min=1, metavar="N", help="Denoisers. [one for each GPU, at least 1]")] = None,
    address: Annotated[Optional[str], typer.Option(metavar="HOST:PORT", help="Ray cluster.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json.")] = False,
) -> int:
    """Audit step scores: whether they rank, from which level on, how sure they are, and whether a search spoils gold."""
    from mcts_ray.audit.request import make_audit

    what = dict(model=model, step_rewards=step_reward or [], step_models=step_model or [], reward=reward, gold=gold, settings=set_ or [])
    scale = dict(prompts_file=prompts, set_name=set_name, split=split, count=count, trajectories=trajectories, levels=levels)
    scale |= dict(siblings=siblings, pool=pool, paths=paths, path_levels=path_levels, group=group)
    where = dict(device=device, dtype=dtype, executor=executor, workers=workers, address=address)
    request = make_audit(out=out, calibrate=calibrate, **what, **scale, **where)
    from mcts_ray.audit.carry_out import carry_out
    from mcts_ray.report.terminal import audit_text

    try:
        found = carry_out(request, lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        _say(f"interrupted; the same command goes on in {out}")
        return 1
    typer.echo(json.dumps({"out": str(out), **found}) if as_json else audit_text(found, out))
    return 0


@app.command()
def replay(
    scores: Annotated[
        list[Path], typer.Option(metavar="FILE.npz", help="Arrays scores [prompt, sample, step], final [prompt, sample]; repeatable.")
    ],
    policy: Annotated[str, typer.Option(metavar="NAME", help="psp, best-of-n or halving@SHARE,SHARE,...")] = "psp",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Replay a pruning policy on recorded step scores, against best-of-n at equal cost."""
    from mcts_ray.replay import load_all, replay
    from mcts_ray.report.terminal import replay_text

    records = load_all(scores)
    rows = replay(records, policy)
    found = {"policy": policy, "prompts": len(records.final_PN), "rows": [row.to_dict() for row in rows]}
    typer.echo(json.dumps(found) if as_json else replay_text(found["prompts"], rows))
    return 0


def _say(sentence: str) -> None:
    typer.echo(f"mcts-ray: {sentence}", err=True)


def _listed(folders: list[Path]) -> str:
    return ", ".join(map(str, folders))


def run(arguments: list[str] | None = None) -> int:
    """The command line as a function: runs `arguments` and returns the exit code."""
    try:
        code = app(arguments, prog_name="mcts-ray", standalone_mode=False) or 0
    except UsageError as error:
        _say(f"{error.format_message()} (see mcts-ray --help)")
        return 2
    except ValueError as error:
        _say(" ".join(str(error).split()))
        return 2
    except Exception as error:
        from mcts_ray.executor.backend import ActorsLost

        if isinstance(error, ActorsLost):  # nobody's mistake, and no defect
            _say(" ".join(str(error).split()))
        else:
            traceback.print_exc()
        return 1
    if code == INTERRUPTED:
        _say("interrupted; the same command takes up what is there")
        return 1
    return code


def main() -> None:
    """The console script. SIGTERM ends a search as Ctrl-C does: what was found is saved."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run())
