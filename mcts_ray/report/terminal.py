"""What a person at a terminal sees of a search: the progress line and, at the end, what was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mcts_ray.report.run import image_paths
from mcts_ray.tree.weights import REASONS

if TYPE_CHECKING:
    from mcts_ray.estimate import Estimate
    from mcts_ray.executor import Progress
    from mcts_ray.replay import Row
    from mcts_ray.result import SearchResult


@contextmanager
def live(quiet: bool = False) -> Iterator[Callable[[Progress], None] | None]:
    """A progress line on stderr, taking `Progress`; None where stderr is not a terminal or `quiet` is set."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda progress: bar.update(
            task, total=progress.budget, completed=progress.nfe, description=progress_line(progress)
        )


def progress_line(progress: Progress) -> str:
    """NFE, the best reward so far (of several prompts: the mean of the bests), and NFE/s."""
    parts = [f"{progress.nfe}/{progress.budget} NFE"]
    found = [reward for reward in progress.best if reward is not None]
    if found:
        parts.append(f"{'best' if len(progress.best) == 1 else 'mean best'} {sum(found) / len(found):.3f}")
    if progress.seconds > 0:
        parts.append(f"{progress.nfe / progress.seconds:.0f} NFE/s")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.paused:
        parts.append(f"paused: {progress.paused}")
    return " · ".join(parts)


def result_text(result: SearchResult) -> str:
    """What was found for one prompt, in a few lines."""
    ledger = result.ledger
    lines = [result.prompt]
    if result.best:
        found = f"  {result.config.reward} {result.best.reward:.3f} best, {result.mean_reward:.3f} mean of {ledger.decodes} images"
        if result.gold is not None:
            found += f" · gold {result.gold:.2f}, {'pass' if result.passed else 'no pass'}"
        lines.append(found)
    rate = f", {ledger.nfe / ledger.seconds:.0f} NFE/s" if ledger.seconds > 0 else ""
    lines.append(f"  {ledger.nfe} NFE in {ledger.seconds:.1f} s{rate}")
    if result.config.fuse != "none":
        reasons = [f"{count} x {name} ({REASONS[name]})" for name, count in result.refusals.items()]
        lines.append(f"  {ledger.fusions} fused{''.join(f' · {reason}' for reason in reasons)}")
    lines += [f"  {note}" for note in result.notes]
    if result.run_dir:
        lines += [f"  {path}" for path in image_paths(result.run_dir, result)]
    return "\n".join(lines)


def estimate_text(estimate: Estimate) -> str:
    """The cost of a request, in a line or two."""
    text = f"{estimate.prompts} prompt{'s' * (estimate.prompts > 1)}: {estimate.nfe} NFE, {estimate.decodes} images"
    if estimate.seconds is None:
        return f"{text}; time and memory are known once the weights are on this machine"
    return f"{text}; about {estimate.seconds:.1f} s and {estimate.memory / 2**30:.1f} GiB here"


def comparison_text(summary: dict, out: Path) -> str:
    """The gold of every arm of a comparison, and where the rest is."""
    lines = []
    for name, one in summary["sets"].items():
        lines.append(f"{name}, {one['prompts']} prompts")
        width = max(len(row["arm"]) for row in one["rows"])
        for row in one["rows"]:
            gold = "no image" if row["gold"] is None else "gold {:.3f} [{:.3f}, {:.3f}]".format(*row["gold"])
            best = row.get("multiplier_best")
            more = f" · {best['text']} x the compute of best-of-n" if best else ""
            lines.append(f"  {row['times']:>3}x  {row['arm']:<{width}}  {gold} · {row['nfe']:.0f} NFE{more}")
    return "\n".join([*lines, f"  {out / 'page.html'}"])


def audit_text(found: dict, out: Path) -> str:
    """The verdict of an audit in words, and where the rest is."""
    verdict = found["verdict"]
    lines = [verdict["headline"]]
    for name, one in verdict["scores"].items():
        lines += [f"{name}:", *(f"  {sentence}" for sentence in one["sentences"])]
    return "\n".join([*lines, "guide and gold:", *(f"  {sentence}" for sentence in verdict["guide"]), f"  {out / 'audit.html'}"])


def replay_text(prompts: int, rows: Sequence[Row]) -> str:
    """A replayed policy against best-of-n, a line for each budget."""
    lines = [f"{prompts} prompt{'s' * (prompts > 1)}; budgets in whole trajectories, 95 % intervals over prompts"]
    for row in rows:
        worth = "more than the samples can tell" if row.multiplier is None else f"{row.multiplier:.2f} x its budget"
        lines.append(
            f"  {row.budget:>3}: best-of-n {row.best_of_n:.4f}, policy {row.policy:.4f} (draws ± {row.error:.4f}), "
            f"difference {row.diff:+.4f} [{row.ci[0]:+.4f}, {row.ci[1]:+.4f}], worth {worth}"
        )
    return "\n".join(lines)


def training_line(part: str, progress) -> str:
    """Where the training of one part of scenes stands (`mcts_ray.fitting.loop.Progress`)."""
    metrics = "".join(f" · {name} {value:.4g}" for name, value in progress.metrics.items())
    return f"{part} {progress.step}/{progress.steps} · loss {progress.loss:.4f}{metrics} · {progress.seconds:.0f} s"
