"""The verdict in words: from which level to which a score is to be trusted, when to prune by it, whether to train another one.

Every sentence follows from figures of audit.json and the thresholds here, which are written beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

THRESHOLDS = {
    "spearman": 0.3,  # a score ranks: its mean rank correlation with the guide is at least this,
    "spearman_low": 0.2,  # and the lower end of its interval at least this (no score ranks below .2)
    "ece": 0.05,  # and it says how sure it is to within this
    "kept_half": 0.8,  # dropping the worse half keeps the best sample this often: softly pruned
    "kept_quarter": 0.8,  # dropping three quarters does: hard pruned
    "of_ceiling": 0.8,  # this share of what the states have decided is as good as a score gets
    "of_ceiling_poor": 0.6,  # below this share another score would help much
    "ceiling": 0.3,  # states below this ceiling have decided too little to judge a score by them
    "guide": 0.5,  # a guide that goes less than this with gold is the limit, not the score of the states on the way
}
Row = dict[str, Any]


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """{"thresholds", "headline", "scores", "guide"}: the last in sentences.

    Of each score: levels `from`, `to`, `prune_softly`, `prune_hard`, `retrain` (None: open) and `why`, `sentences`, and their `sum`.
    """
    scores = {name: _score(name, one, found) for name, one in found["scores"].items()}
    guide = _guide(found["guide_and_gold"]) + _optimisation(found.get("over_optimisation"))
    return {"thresholds": THRESHOLDS, "headline": " ".join(one["sum"] for one in scores.values()), "scores": scores, "guide": guide}


def trusted(row: Row) -> bool:
    """Whether a score ranks at this level and knows how sure it is."""
    rank, interval, error = row["spearman"], row["spearman_ci"], row["ece"]
    ranks = rank is not None and rank >= THRESHOLDS["spearman"] and interval[0] >= THRESHOLDS["spearman_low"]
    return ranks and (error is None or error <= THRESHOLDS["ece"])


def longest_run(rows: Sequence[Row]) -> list[Row]:
    """The longest unbroken run of trusted levels, of equal ones the later; empty if there is none."""
    best: list[Row] = []
    run: list[Row] = []
    for row in rows:
        run = [*run, row] if trusted(row) else []
        if run and len(run) >= len(best):
            best = run
    return best


def at_share(levels: Sequence[Row], share: float) -> Row:
    """The entry of the first state at which this share of the calls is made."""
    return next((row for row in levels if row["share"] >= share - 1e-9), levels[-1])


def _reach(one: Row) -> str:
    if one["from"] is None:
        return "trustworthy at no level"
    return f"trustworthy from level {one['from']} to {one['to']} (from {one['from_share']:.0%} of the trajectory on)"


def _prune(one: Row) -> str:
    if one["prune_softly"] is None:
        return "do not prune by it"
    hard = f", and to a quarter from level {one['prune_hard']}" if one["prune_hard"] else ", and to a quarter not at all"
    return f"prune no earlier than level {one['prune_softly']} (to the better half{hard})"


def _train(name: str, one: Row) -> str:
    if one["retrain"] is None:
        return "whether to retrain is open"
    better = "train a value head or an LRM" if name == "x0" else "retrain it"
    return better if one["retrain"] else ("no trained score is needed" if name == "x0" else "do not retrain it")


def _score(name: str, one: Row, found: Row) -> Row:
    levels, siblings = one["levels"], one["siblings"]
    run = longest_run(levels)
    soft = next((row for row in run if row["kept_half"] >= THRESHOLDS["kept_half"]), None)
    hard = next((row for row in run if row["kept_quarter"] >= THRESHOLDS["kept_quarter"]), None)
    retrain, why = _retrain(name, siblings)
    judged = {
        "from": run[0]["level"] if run else None, "to": run[-1]["level"] if run else None,
        "from_share": run[0]["share"] if run else None,
        "prune_softly": soft and soft["level"], "prune_hard": hard and hard["level"],
        "retrain": retrain, "why": why,
    }  # fmt: skip
    judged["sentences"] = [
        _ranks(levels), *_distrusted(levels), *_siblings(siblings), *_paths(one.get("paths")), *_over_first(levels, found), why
    ]  # fmt: skip
    return judged | {"sum": f"{name}: {_reach(judged)}; {_prune(judged)}; {_train(name, judged)}."}


def _ranks(levels: Sequence[Row]) -> str:
    parts = []
    for share in (0.25, 0.5):
        row = at_share(levels, share)
        guide, gold = (_number(row[name], row[f"{name}_ci"]) for name in ("spearman", "spearman_gold"))
        parts.append(f"at {share:.0%} (level {row['level']}) {guide} with the guide and {gold} with gold")
    return f"Rank correlation within a prompt: {'; '.join(parts)}."


def _distrusted(levels: Sequence[Row]) -> list[str]:
    """Levels that would rank well enough but do not know how sure they are."""
    loud = [row for row in levels if not trusted(row) and trusted({**row, "ece": 0.0})]
    if not loud:
        return []
    worst = max(loud, key=lambda row: row["ece"])
    return [f"Too sure or not sure enough (calibration error above {THRESHOLDS['ece']}) at {_levels(loud)}, worst {worst['ece']:.2f}."]


def _siblings(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["Siblings were not measured."]
    told = [row for row in rows if row["spearman"] is not None]
    able = [row for row in told if row["spearman_ci"][0] > 0]
    figures = ", ".join(
        f"{row['spearman']:.2f} at level {row['level']} (ceiling {row['ceiling_of_means']:.2f})"
        for row in told
        if row["ceiling_of_means"] is not None
    )
    if not able:
        return [f"It cannot tell children of one state apart by gold at any level measured ({figures or 'no parent had a spread'})."]
    return [f"It tells children of one state apart by gold at {_levels(able)}: {figures}."]


def _paths(paths: Row | None) -> list[str]:
    if paths is None:
        return []
    lost, blind = paths["guide_lost"][0], paths["guide_lost_blindly"][0]
    gold, gold_blind = paths["gold_lost"][0], paths["gold_lost_blindly"][0]
    chosen = f"in {paths['best_chosen'][0]:.0%} of {paths['trees']} trees (blindly {paths['best_chosen_blindly'][0]:.0%})"
    losses = f"{lost:.3f} of guide (blindly {blind:.3f}) and {gold:.3f} of gold (blindly {gold_blind:.3f})"
    return [f"Of {paths['paths']} jump paths from one noise it chose the best by guide {chosen} and lost {losses} against the best."]


def _over_first(levels: Sequence[Row], found: Row) -> list[str]:
    if not any(row.get("over_first") for row in levels):
        return []
    first = next(iter(found["scores"]))
    better = [row for row in levels if row.get("over_first") and row["over_first"][1] > 0]
    worse = [row for row in levels if row.get("over_first") and row["over_first"][2] < 0]
    parts = [f"{word} {first} at {_levels(rows)}" for word, rows in (("better than", better), ("worse than", worse)) if rows]
    return [f"It ranks {' and '.join(parts)}." if parts else f"It ranks no better and no worse than {first}."]


def _retrain(name: str, siblings: Sequence[Row]) -> tuple[bool | None, str]:
    """Whether another score could be much better, and why: what this one reaches of what the children of one state have decided."""
    if not siblings:
        return (
            None,
            "Whether another score would do better is not known: without completions of the same state (--siblings) there is no ceiling.",
        )
    known = [
        row for row in siblings if (row["ceiling_of_means_guide"] or 0) >= THRESHOLDS["ceiling"] and row["of_ceiling_guide"] is not None
    ]
    if not known:
        return False, "Another score is not needed: where siblings were measured, states have decided too little for any."
    share, high = (sum(row[f"of_ceiling_guide{end}"] for row in known) / len(known) for end in ("", "_high"))
    reached = (
        f"among siblings it reaches {min(1.0, max(0.0, share)):.0%} of the correlation with the guide that is possible, at {_levels(known)}"
    )
    if share >= THRESHOLDS["of_ceiling"]:
        return False, f"Another score is not needed: {reached}; the rest is not decided yet when it is asked."
    if share >= THRESHOLDS["of_ceiling_poor"]:
        return False, f"Another score would help a little: {reached}."
    if high >= THRESHOLDS["of_ceiling"]:
        return None, f"Whether another score would do better needs more prompts: {reached}, with an upper end of {min(1.0, high):.0%}."
    better = "A trained score is worth having" if name == "x0" else "Retrain it"
    return True, f"{better}: {reached}, so the states have decided more than the score sees."


def _guide(judges: Row) -> list[str]:
    rank = judges["spearman"]
    if rank is None:
        return ["Guide and gold could not be compared: one of them is the same for all images of each prompt."]
    own = f"Of finished images of one prompt the guide orders gold with {_number(rank, judges['spearman_ci'])}"
    if rank < THRESHOLDS["guide"]:
        return [f"{own}: this is the limit of every score that follows it, and a better guide would gain more than a better step score."]
    return [f"{own}; no score that follows it can be expected to do better."]


def _optimisation(one: Row | None) -> list[str]:
    if one is None:
        return ["Over-optimisation is not known: there is no pool of samples, or guide or gold are the same for all of its samples."]
    guide, gold = (one["curve"][-1][name][0] for name in ("guide", "gold"))
    largest = f"best of {one['largest_n']}"
    if one["drop"][2] < 0:
        turn = f"Gold turns over: it is highest at best of {one['peak_n']} and has lost {-one['drop'][0]:.2f} sd at {largest}."
    else:
        turn = f"Gold does not turn over up to {largest}: {gold:+.2f} sd, where the guide gains {guide:+.2f}."
    beyond = one["beyond_regression"]
    if beyond[2] < 0:
        return [
            turn,
            f"That is {-beyond[0]:.2f} sd less than a weak guide explains (regression to the mean): the guide is being exploited.",
        ]
    return [
        turn,
        "What gold does not gain is no more than a guide of this correlation loses (regression to the mean): nothing is exploited.",
    ]


def _levels(rows: Sequence[Row]) -> str:
    """Levels in words: runs of neighbours as from-to."""
    numbers = sorted({row["level"] for row in rows}, reverse=True)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return f"level{'s' * (len(numbers) > 1)} {', '.join(words)}"


def _number(value: float | None, interval: Sequence[float] | None) -> str:
    return "(not known)" if value is None or interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
