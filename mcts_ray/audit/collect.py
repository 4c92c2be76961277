"""The measurements of an audit, in groups of prompts that are kept as they end, so that a second call goes on.

    groups/PART[-STEP]-AT.npz

The first step score brings guide and gold with it; each further one walks the same
noises again for its own scores alone, since the states are the same.

Legend: P prompts, N samples, L scored levels, A parent levels, C children, M completions, K seeds, W ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mcts_ray.audit.design import IN_FLIGHT, Design, Step
from mcts_ray.audit.metrics import check_gold
from mcts_ray.audit.searches import (
    JumpPaths,
    Siblings,
    Walks,
    children_of,
    completion,
    trunk,
)
from mcts_ray.compare.run import judged
from mcts_ray.executor.backend import Found, Plan, Task
from mcts_ray.report.share import replacing
from mcts_ray.reward import Reward
from mcts_ray.search.base import Search
from mcts_ray.searcher import Searcher

Report = Callable[[str], None]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """What was measured; the arrays of parts that were left out are missing.

    trajectories: guide, gold (P, N), and scores (P, N, L) by step score. siblings: guide, gold (P, A, C, M), and scores (P, A, C).
    pool: guide, gold (P, N). paths: one table for each prompt and seed and step score (`Way` rows). log_snr, path_log_snr: of the
    levels 0 ... T of trajectories and of paths.
    """

    log_snr: tuple[float, ...]
    trajectories: Arrays
    scores: Mapping[str, np.ndarray]
    siblings: Arrays = field(default_factory=dict)
    sibling_scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    pool: Arrays = field(default_factory=dict)
    paths: Mapping[str, Arrays] = field(default_factory=dict)
    path_log_snr: tuple[float, ...] = ()


class Collector:
    """Carries out the parts of a design with a searcher; `gold` judges in this process."""

    def __init__(self, design: Design, searcher: Searcher, gold: Reward, folder: Path, report: Report = lambda line: None) -> None:
        self.design, self.searcher, self.gold, self.folder, self.report = design, searcher, gold, folder, report
        self.seed = design.settings.get("seed", 0)

    def collect(self) -> Data:
        """All parts; what is there already is read. ValueError if gold turns out to be the guide, before the longer parts."""
        d, steps = self.design, self.design.steps
        walks = {}
        for step in steps:
            walks[step.name] = self._part("trajectories", step, d.texts, self._trajectories)
            if self._judging(step):
                check_gold(walks[step.name]["guide"], walks[step.name]["gold"])
        first = walks[steps[0].name]
        data = {"log_snr": self._log_snr(d.levels), "trajectories": first, "scores": {name: one["scores"] for name, one in walks.items()}}
        if d.parents:
            born = {step.name: self._part("siblings", step, d.texts, self._siblings) for step in steps}
            data |= {"siblings": born[steps[0].name], "sibling_scores": {name: one["scores"] for name, one in born.items()}}
        if d.pool[0]:
            data["pool"] = self._part("pool", None, d.texts[: d.pool[0]], self._pool)
        if d.paths[0]:
            texts = d.texts[: d.paths[0]]
            data["paths"] = {step.name: self._part("paths", step, texts, self._paths) for step in steps}
            data["path_log_snr"] = self._log_snr(d.path_levels)
        return Data(**data)

    def _log_snr(self, levels: int) -> tuple[float, ...]:
        return self.searcher.backend.plan(list(self.design.texts[:1]), self.design.config(levels, 1), None).log_snr

    # groups --------------------------------------------------------------------------------------------------------

    def _part(self, name: str, step: Step | None, texts: Sequence[str], measure: Callable[[Sequence[str], Step | None], Arrays]) -> Arrays:
        """The arrays of one part over all of its prompts, group by group."""
        label = f"{name}-{step.name}" if step else name
        groups = []
        for at in range(0, len(texts), self.design.group):
            group = texts[at : at + self.design.group]
            path = self.folder / f"{label}-{at}.npz"
            if not path.exists():
                _save(path, measure(group, step))
                self.report(f"{label.replace('-', ', ')}: {at + len(group)} of {len(texts)} prompts")
            with np.load(path) as arrays:
                groups.append({name: arrays[name] for name in arrays.files})
        return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}

    def _judging(self, step: Step | None) -> bool:
        """Whether guide and gold come with this pass."""
        return step is None or step == self.design.steps[0]

    # parts ---------------------------------------------------------------------------------------------------------

    def _trajectories(self, texts: Sequence[str], step: Step) -> Arrays:
        d = self.design
        plan = self._plan(texts, d.levels, d.trajectories)
        searches = [self._walks(one, step, d.scored) for one in plan.searches]
        found = self._run(searches, plan, d.trajectories)
        rows = [self._walked(*pair, d.trajectories, d.scored) for pair in zip(found, texts)]
        return self._stacked(rows, self._judging(step))

    def _pool(self, texts: Sequence[str], step: None) -> Arrays:
        d = self.design
        plan = self._plan(texts, d.levels, d.pool[1])
        found = self._run([self._walks(one, None, ()) for one in plan.searches], plan, d.pool[1])
        rows = [self._walked(*pair, d.pool[1], ()) for pair in zip(found, texts)]
        return {name: np.stack([row[name] for row in rows]) for name in ("guide", "gold")}

    def _walks(self, planned: Search, step: Step | None, scored: Sequence[int]) -> Walks:
        setting = step.apply(planned.setting) if step else planned.setting
        return Walks(planned.id, setting, planned.budget, seed=planned.seed, phi=planned.phi, scored=scored)

    def _walked(self, found: Found, text: str, samples: int, scored: Sequence[int]) -> Arrays:
        """Scores (N, L), guide and gold (N,) of one prompt; nodes come walk by walk, each from T down to 0."""
        T = self.design.levels
        walks = [found.nodes[at : at + T + 1] for at in range(0, samples * (T + 1), T + 1)]
        last = [walk[-1] for walk in walks]
        row = self._verdicts(found, text, [node["id"] for node in last], [node["value"] for node in last])
        row["scores"] = np.array([[_score(found.scores.get(walk[T - level]["id"]), text, level) for level in scored] for walk in walks])
        return row

    def _siblings(self, texts: Sequence[str], step: Step) -> Arrays:
        """The first pass completes the children, further ones only score them."""
        d, judging = self.design, self._judging(step)
        M = d.completions if judging else 0
        budget = Siblings.nfe(d.levels, d.parents, d.children, M)
        plan = self._plan(texts, d.levels, 1, eta=1.0)
        shape = {"parents": d.parents, "children": d.children, "completions": M, "branching": d.branching}
        searches = [Siblings(one.id, step.apply(one.setting), budget, seed=one.seed, phi=one.phi, **shape) for one in plan.searches]
        found = self._run(searches, plan, max(1, len(d.parents) * d.children * M))
        return self._stacked([self._born(*pair, M) for pair in zip(found, texts)], judging)

    def _born(self, found: Found, text: str, M: int) -> Arrays:
        """Scores (A, C), guide and gold (A, C, M) of one prompt."""
        d = self.design
        nodes = {node["id"]: node for node in found.nodes}
        spots = {edge.level: edge.node for edge in trunk(self.seed, d.levels, min(d.parents))}
        born = [[(level - 1, node) for node in children_of(spots[level], d.children)] for level in d.parents]
        score_AC = [[_score(nodes[node]["score"], text, level) for level, node in row] for row in born]
        if not M:
            return {"scores": np.array(score_AC)}
        ends = [completion(node, level, index)[-1] for row in born for level, node in row for index in range(M)]
        row = self._verdicts(found, text, ends, [nodes[end]["value"] for end in ends])
        return {name: value.reshape(len(d.parents), d.children, M) for name, value in row.items()} | {"scores": np.array(score_AC)}

    def _paths(self, texts: Sequence[str], step: Step) -> Arrays:
        """Every state of every tree: parent's place (-1: a seed), level, score (guide, at level 0) and, at level 0, gold: (P, S)."""
        d = self.design
        T, seeds = d.path_levels, d.paths[1]
        budget = JumpPaths.nfe(T, d.jumps, seeds)
        plan = self._plan(texts, T, 1)
        searches = [
            JumpPaths(one.id, step.apply(one.setting), budget, seed=one.seed, phi=one.phi, seeds=seeds, jumps=d.jumps)
            for one in plan.searches
        ]
        found = self._run(searches, plan, seeds * JumpPaths.ways(T, d.jumps)[0])
        rows = [self._ways(*pair) for pair in zip(found, texts)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _ways(self, found: Found, text: str) -> Arrays:
        place = {node["id"]: at for at, node in enumerate(found.nodes)}
        ends = [node for node in found.nodes if node["level"] == 0]
        row = self._verdicts(found, text, [node["id"] for node in ends], [node["value"] for node in ends])
        guide, gold = (dict(zip((node["id"] for node in ends), row[name])) for name in ("guide", "gold"))
        score = [guide[n["id"]] if n["level"] == 0 else _score(n["score"], text, n["level"]) for n in found.nodes]
        return {
            "parent": np.array([-1 if node["parent"] is None else place[node["parent"]] for node in found.nodes]),
            "level": np.array([node["level"] for node in found.nodes]),
            "score": np.array(score),
            "gold": np.array([gold.get(node["id"], 0.0) for node in found.nodes]),
        }

    # carrying out --------------------------------------------------------------------------------------------------

    def _plan(self, texts: Sequence[str], levels: int, samples: int, eta: float = 0.0) -> Plan:
        return self.searcher.backend.plan(list(texts), self.design.config(levels, samples, eta), None)

    def _run(self, searches: Iterable[Search], plan: Plan, images: int) -> list[Found]:
        """What searches have found; ValueError if a unit of one has failed, as when a reward gave no finite number."""
        searches = list(searches)
        found, error = self.searcher.backend.run([Task(search, IN_FLIGHT, images) for search in searches], plan, self.design.reward)
        if error:
            raise error
        for search, one in zip(searches, found, strict=True):
            if one.errors:
                raise ValueError(
                    f"a sample of {search.setting.prompt!r} could not be measured: {one.errors[0]}; an audit needs all of them"
                )
        return found

    def _verdicts(self, found: Found, text: str, nodes: Sequence[str], guide: Sequence[float | None]) -> Arrays:
        """Guide and gold (N,) of finished nodes; ValueError for an image without a finite one."""
        gold = judged(self.gold, [found.gallery[node] for node in nodes], text)
        for what, values in (("guide", guide), ("gold judge", gold)):
            if None in values:
                raise ValueError(f"the {what} gave no finite score for sample {values.index(None)} of {text!r}; an audit needs them all")
        return {"guide": np.array(guide, float), "gold": np.array(gold, float)}

    @staticmethod
    def _stacked(rows: Sequence[Arrays], judging: bool) -> Arrays:
        names = ("guide", "gold", "scores") if judging else ("scores",)
        return {name: np.stack([row[name] for row in rows]) for name in names}


def _score(score: float | None, text: str, level: int) -> float:
    """A step score; ValueError if a state has none that is finite."""
    if score is None or not np.isfinite(score):
        raise ValueError(f"the step score of {text!r} at level {level} is not a finite number; an audit needs them all")
    return score


def _save(path: Path, arrays: Arrays) -> None:
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
