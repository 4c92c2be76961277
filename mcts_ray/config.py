"""The configuration of a search: its fields. Which of them go together is told in `mcts_ray.fits`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mcts_ray.fits import NOISY, SCORED, TREES, check_together

BUDGET_IN_TRAJECTORIES = 8
AYS_STEPS = 10


class SearchConfig(BaseModel):
    """What to search for and how much it may cost. Fields left at None take the default of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    algorithm: str = Field("best-of-n", description="Search algorithm, a name of mcts_ray.search.ALGORITHMS; auto: what comparisons say is best.")
    budget: int | None = Field(
        None, ge=1, description="NFE (guided evaluations of one sample) that may be spent; None: 8 times `levels`."
    )
    max_seconds: float | None = Field(None, gt=0, description="Wall time after which the search ends; None: no limit.")
    max_decodes: int | None = Field(None, ge=1, description="Images that may be decoded and rewarded; None: no limit.")
    levels: int = Field(30, ge=1, le=1000, description="T, the levels of a full trajectory.")
    grid: Literal["native", "leading", "trailing", "karras", "ays"] = Field(
        "native",
        description="Where the levels lie; native: at the scheduler's own time steps, leading or trailing: with that spacing, karras: "
        "Karras et al.'s between the native ends, ays: Align Your Steps (of SDXL for such models), interpolated unless `levels` is 10.",
    )
    order: int = Field(1, ge=1, le=2, description="Solver of noise-free moves: 1 DDIM, 2 DPM-Solver++(2M).")
    jump: Literal["constant", "table", "ays", "ige"] = Field(
        "constant",
        description="How jump sizes are chosen; constant: `k`, table: `jump_table`, ays: through ten Align Your Steps levels, ige: for "
        "each new child by a network that reads its parent's state (mcts), or by its table of best jumps, a k for each level (best-of-n, "
        "psp, whose walks are planned before any state is there to be read).",
    )
    k: int = Field(1, ge=1, description="Levels per jump where `jump` is constant; a trajectory costs ceil(levels / k) NFE.")
    jumps: tuple[int, ...] = Field((1, 2, 4, 8), min_length=1, description="The jump sizes among which a table chooses.")
    jump_table: tuple[int, ...] | None = Field(
        None,
        description="Where `jump` is table: the jump size at each of the levels 1, 2, ..., `levels`. ige: instead of the network's own.",
    )
    ige_model: str | None = Field(None, description="Folder of the network of jump ige; None: the one shipped for scenes.")
    ige_target: Literal["reward_rate", "similarity", "jump_error", "value"] = Field(
        "value", description="jump ige: which of the network's targets says what a jump gains."
    )
    ige_choice: Literal["greedy", "top-m", "sample"] = Field(
        "greedy", description="jump ige: the best jump, the `ige_top` best in turn, or the best of a draw from what is predicted."
    )
    ige_top: int = Field(2, ge=1, description="jump ige, choice top-m: m.")
    ige_version: int | None = Field(None, ge=0, description="jump ige: version of the network's weights; None: the newest.")
    ige_online: str | None = Field(
        None, description="jump ige: folder in which the network goes on learning from searches; it gets numbered versions there."
    )
    price: float | None = Field(
        None, ge=0, description="jump ige: c, price of a denoiser call in units of the reward; None: the one its table was made for."
    )
    eta: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Noise of each jump as DDIM's eta, 0 deterministic, 1 DDPM; not for mcts, not with `phi_schedule`. None: 1 where "
        "copies of a state must part by noise, and for dfs; 0 for best-of-n, psp, random and zero-order.",
    )
    step_reward: Literal["none", "x0", "lrm", "value"] | None = Field(
        None,
        description="Score of unfinished states; x0: the reward of the predicted image, lrm and value: by a network that reads the "
        "state itself. None: x0 where the algorithm needs one.",
    )
    step_model: str | None = Field(
        None, description="Folder of the lrm or value network, or file or hub id of an lrm; None: the one shipped for scenes."
    )
    population: int | None = Field(
        None,
        ge=1,
        description="Particles (fk, smc-tempered, bfs) or active states (beam) of a run, runs follow each other; None: as many as the "
        "budget pays for. rbf: samples [2].",
    )
    offspring: int | None = Field(
        None,
        ge=1,
        description="Children drawn from a state, neighbours of a noise; fewer where the budget is small. None: as in the paper.",
    )
    strength: float | None = Field(
        None,
        gt=0,
        description="lambda, of the target p(x) exp(lambda reward), for fk, smc-tempered and bfs [10], dts and dts-star [1]; 1 / alpha of "
        "svdd [the best child].",
    )
    potential: Literal["diff", "max", "add", "current"] | None = Field(
        None, description="fk, bfs, smc-tempered: what a particle's scores make of its weight. [max, max, diff]"
    )
    tempering: float | None = Field(
        None,
        ge=0,
        description="fk, bfs, smc-tempered: gamma, lambda grows as (1 + gamma)^i - 1 over 100 steps; 0: constant. [0, .008, .008]",
    )
    score_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        None,
        min_length=1,
        description="fk, bfs, smc-tempered, dfs: shares of a trajectory's calls after which states are scored. "
        "[.2, .4, .6, .8; bfs: .2, .4, .8; smc-tempered: every call]",
    )
    resampling: Literal["multinomial", "ssp", "top"] | None = Field(
        None, description="fk, bfs, smc-tempered: how particles are drawn by their weights. [multinomial, ssp, ssp]"
    )
    ess: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fk, bfs, smc-tempered: resample only if the effective size is below this share. [always, always, .5]",
    )
    threshold: float | None = Field(
        None, description="dfs: score below which a state is sent back. None: the mean of the scores at the same check before."
    )
    backtracks: int | None = Field(None, ge=0, description="dfs: how often one trajectory may be sent back. [8]")
    reach: float | None = Field(None, gt=0, le=1, description="dfs: how far it is sent back, as a share of its calls. [.25]")
    init: int | None = Field(None, ge=1, description="rbf: initial noises of a sample, at most a tenth of its budget. [25]")
    rounds: int | None = Field(None, ge=1, description="nts: rounds of candidates per step, fewer if the budget is small. [20]")
    epsilon: float | None = Field(None, ge=0, le=1, description="nts: probability of a fresh noise. [.4]")
    radius: float | None = Field(None, gt=0, description="nts: lambda, how far a neighbour is from its noise at most, of sqrt(d). [.15]")
    cosine: float | None = Field(None, gt=0, lt=1, description="zero-order: c, cosine between a noise and its neighbours. [.95]")
    phi: float = Field(
        0.6,
        ge=0,
        le=1.5,
        description="Full angle of `phi_schedule`, for mcts that of branching: a child keeps cos^2(phi) of its noise.",
    )
    phi_schedule: Literal["constant", "taper", "linear", "cosine"] | None = Field(
        None,
        description="phi by the level jumped from; taper: less below 2/5 of the levels, linear and cosine: less and less from the top, "
        "all three 0 below 1/5. None: taper for mcts; for others the noise is that of `eta`.",
    )
    branchings: int | None = Field(
        None,
        ge=1,
        description="At how many levels below the seeds paths may branch; mcts: spread over the noisy four fifths [3], dts and dts-star: "
        "over all levels [4].",
    )
    seeds: int | None = Field(
        None, ge=1, description="mcts: trajectories finished before values decide; None: as many as half the budget pays for."
    )
    wait: bool = Field(
        False,
        description="mcts: whether a walk stops at each state that may be branched, until its calibrated score makes it the best choice "
        "to go on.",
    )
    rollout_stride: int | None = Field(
        None, ge=1, description="mcts: levels per step of a roll-out; None: as the jump policy goes."
    )
    backup: Literal["mean", "max", "soft"] = Field("mean", description="mcts: how rewards make the value of the nodes above.")
    soft_strength: float = Field(4.0, gt=0, description="mcts: lambda of the soft backup, per unit of reward.")
    soft_across: Literal["max", "mean"] = Field("max", description="mcts: how the soft backup joins children of different jumps.")
    explore: float | None = Field(
        None,
        ge=0,
        description="Weight of exploration; mcts: beta, in standard deviations of the returns [.3], dts-star: c, in units of reward [1].",
    )
    widen_c: float | None = Field(None, gt=0, description="C of progressive widening, children < C visits^a. [2]")
    widen_a: float | None = Field(
        None, ge=0, le=1, description="a of progressive widening, children < C visits^a; mcts [.5], dts and dts-star [.8]."
    )
    in_flight_share: float = Field(
        0.125, gt=0, le=1, description="mcts: share of the budget that may be in flight in units chosen by values."
    )
    fuse: Literal[
        "none", "innovation", "signed", "ensemble", "x0_transport", "features", "decoder", "mean", "slerp", "fresh"
    ] = Field(
        "none",
        description="mcts: how siblings are fused into one more; innovation and signed: their noises, by softmax or tanh weights, "
        "ensemble: their noises into several, x0_transport, features: their predicted images by optimal transport, decoder: their "
        "features; mean, slerp, fresh: controls.",
    )
    fused_children: int = Field(2, ge=1, le=16, description="ensemble: states that one fusion makes, fewer if some would be copies.")
    fuse_model: str | None = Field(
        None, description="decoder: folder of its network, from `mcts-ray train fusion`; None: the one shipped for scenes."
    )
    max_fusions: int = Field(1, ge=1, description="mcts: fusions per set of siblings; each needs twice as many as the last.")
    fuse_after: int = Field(
        6, ge=6, description="mcts: siblings from which on they may be fused; 6 where the best two are close to each other."
    )
    fuse_depth: int = Field(1, ge=1, description="mcts: how many noises in a row on one path may be fused.")
    particles: Literal["keep", "retire"] = Field(
        "keep", description="mcts: whether siblings that have been fused are still searched; retire: no, their results stay."
    )
    prune: tuple[Literal["statistical", "stages", "gain", "memory"], ...] = Field(
        (),
        description="mcts: rules by which subtrees are given up, one or several of statistical, stages, gain, and memory: states of pruned "
        "subtrees, and those that nothing starts from, are let go, and made again where they are needed after all; none by default.",
    )
    prune_z: float = Field(2.0, ge=0, description="prune statistical: z, half width of the bounds in standard deviations.")
    prune_least: int = Field(4, ge=1, description="prune statistical: returns that a subtree needs to be judged.")
    prune_stages: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), min_length=1, description="prune stages: shares of the budget after which seeds are halved."
    )
    prune_cold: float = Field(
        0.125, gt=0, le=1, description="prune memory: share of the budget for which a state is kept that nothing starts from."
    )
    prune_revive: bool = Field(True, description="prune: whether a pruned subtree comes back once all of its siblings are below it.")
    prune_gains: tuple[float, ...] | None = Field(
        None, description="Where prune has gain: what a jump from each level 1, 2, ... is predicted to gain; 0 or less: hopeless."
    )
    calibration: str | None = Field(
        None,
        description="mcts: calibration.json by which step scores count in values; none: they are only noted. "
        "None: the one beside the step model, if there is one.",
    )
    calibration_refresh: bool = Field(True, description="mcts: whether finished trajectories go on calibrating during a search.")
    record_scores: bool = Field(
        False, description="Score every state, which costs a decode each (x0) but no NFE, and write scores.npz for `mcts-ray replay`."
    )
    guidance: float | None = Field(
        None, ge=0, description="Classifier-free guidance scale, 1 or less: off; None: 3.0 for scenes, 7.5 for other models."
    )
    negative_prompt: str = Field("", description="What the images should not show.")
    seed: int = Field(0, ge=0, description="Seed of all noise; the same seed gives the same initial noises everywhere.")
    images: int = Field(4, ge=1, description="How many of the best images are returned.")
    height: int | None = Field(None, ge=8, description="Pixels; None: the size the model was trained for.")
    width: int | None = Field(None, ge=8, description="Pixels; None: the size the model was trained for.")
    reward: str | None = Field(
        None,
        description="scenes, jpeg, pickscore, clipscore, hps, aesthetic, NAME@FOLDER, MODULE:FUNCTION, or a sum as in pickscore:1,jpeg:0.2; "
        "None: scenes for the scenes model.",
    )
    in_flight: int | None = Field(
        None, ge=1, description="Units of work in flight at once per search; None: budget // 8, at least 1."
    )

    @field_validator("prune", mode="before")
    @classmethod
    def _one_rule(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> SearchConfig:
        check_together(self)
        return self

    @property
    def scores_in_engine(self) -> bool:
        """Whether a network scores states beside the denoiser, without a decode."""
        return self.step_reward in ("lrm", "value")

    @property
    def spendable(self) -> int:
        """NFE of `budget`, or of its default."""
        return self.budget or BUDGET_IN_TRAJECTORIES * self.levels

    @property
    def trajectory_nfe(self) -> int:
        """NFE of one full trajectory; of ays at most as many."""
        if self.algorithm == "mcts" and self.rollout_stride:
            return -(-self.levels // self.rollout_stride)
        if self.jump == "ays":
            return min(self.levels, AYS_STEPS)
        sizes = self.jump_table or (self.k,) * self.levels
        level, calls = self.levels, 0
        while level > 0:
            level, calls = level - sizes[level - 1], calls + 1
        return calls

    @property
    def _default_eta(self) -> float | None:
        """None where a schedule of phi sets the noise."""
        if self.phi_schedule and self.algorithm != "mcts":
            return None
        return 1.0 if self.algorithm in NOISY | {"dfs"} else 0.0

    def resolved(self, scenes: bool, size: tuple[int, int], reward: str | None) -> SearchConfig:
        """This configuration with every default filled in: for a model of `size` (height, width), `scenes` or not."""
        defaults = {
            "budget": self.spendable,
            "guidance": 3.0 if scenes else 7.5,
            "height": size[0],
            "width": size[1],
            "reward": reward,
            "in_flight": max(1, self.spendable // 8),
            "step_reward": "x0" if self.algorithm in SCORED else "none",
            "eta": self._default_eta,
            "phi_schedule": "taper" if self.algorithm == "mcts" else None,
            "explore": 1.0 if self.algorithm in TREES else 0.3,
            "branchings": 4 if self.algorithm in TREES else 3,
            "widen_c": 2.0,
            "widen_a": 0.8 if self.algorithm in TREES else 0.5,
        }
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})

    def own_guidance(self, scenes: bool) -> float:
        """Its guidance; where none is set, that of the model."""
        return self.resolved(scenes, (0, 0), None).guidance
