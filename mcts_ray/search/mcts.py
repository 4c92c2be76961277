"""Monte Carlo tree search over denoising paths: WU-UCT, progressive widening, deterministic roll-outs.

A unit of work is one simulation. *Select* walks down the tree to an open node (`mcts_ray.tree.select`): at every node
it deepens into the best child, widens or fuses. *Expand* makes the new child, by a jump of k levels (jump policy) with
phi(level) of fresh noise, or of noise fused from its siblings' (`mcts_ray.tree.fuse`), and *evaluates* it: an ODE roll-out
goes down to level 0, by `stride` levels at a time (0: by the jump policy). Every state on it joins the tree, and the
reward of its image is *backed up* to the root. One denoiser call per state, none twice: the states that may be branched
are kept, and a child of them starts from what they hold.

With `wait` a walk stops at every state that may be branched, if it is calibrated: the mean of its prior is backed up, and to go
on from there is one more choice, taken for the best of the walks alone.

The search begins with `seeds` whole trajectories, since finished images are the only sure evidence; then values decide,
and more seeds are one of the choices (the root is a node like others).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mcts_ray.gain.choose import Chooser, Transition
from mcts_ray.gain.policy import Constant, JumpPolicy, path
from mcts_ray.tree.weights import STATES, Fused
from mcts_ray.search.base import Cost, Edge, Fuse, Outcome, Setting, Work
from mcts_ray.search.branching import Branching
from mcts_ray.search.ids import fuse_id, jump_id, root_id, seed_id
from mcts_ray.search.trees import TreeSearch
from mcts_ray.tree.backup import Rule, make_rule, mean
from mcts_ray.tree.fuse import Fusing, Fusions, Offer, kernel
from mcts_ray.tree.node import Node
from mcts_ray.tree.prune import Pruner, Pruning
from mcts_ray.tree.select import select
from mcts_ray.tree.tree import Calibration, State, Tree
from mcts_ray.tree.widen import Widening

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig

log = logging.getLogger(__name__)


class MCTS(TreeSearch):
    """MCTS on the ask/tell units.

    beta: exploration, in standard deviations of the returns. scored: ask for the step score of every state that may be
    branched; without `calibration` it is only noted. wait: walks stop at these. share: of the budget, how much may be in flight in
    simulations that values have chosen (one is always allowed). fusing: how siblings are fused, pruning: when subtrees are given
    up; None: not at all. chooser: chooses the jump of a new child by what is predicted of its parent's state;
    roll-outs, and all else without it, go by the policy.
    """

    def __init__(
        self,
        id: str,
        setting: Setting,
        budget: int,
        branching: Branching,
        *,
        seed: int = 0,
        seeds: int | None = None,
        policy: JumpPolicy = Constant(1),
        stride: int = 0,
        beta: float = 1.0,
        widening: Widening = Widening(),
        rule: Rule = mean,
        share: float = 1 / 8,
        scored: bool = False,
        wait: bool = False,
        calibration: Calibration | None = None,
        fusing: Fusing | None = None,
        pruning: Pruning | None = None,
        chooser: Chooser | None = None,
        max_decodes: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(id, setting, budget, max_decodes, max_seconds)
        self.seed, self.branching, self.policy, self.stride = seed, branching, policy, stride
        self.beta, self.widening, self.share = beta, widening, share
        self.scored, self.wait = scored, wait
        self._plant(Tree(root_id(seed), setting.levels, rule, calibration))
        self._pruning = pruning
        self._keeps = fusing is not None and fusing.mode in STATES
        self._pruner = Pruner(self.tree, pruning, budget, lambda node: self._keeps and node.phi > 0) if pruning else None
        if self._pruner:
            self.pruning = self._pruner.counts
        if fusing and fusing.retire:
            self.pruning["retired"] = 0
        self._remade: dict[str, list[Node]] = {}  # of the units out, the states above their new child that they make again
        self.chooser = chooser
        self._plans: dict[tuple[int, int, bool] | None, tuple[State, ...]] = {}
        trajectory = _nfe(self._plan(self.tree.root))
        self.seeds = seeds or max(1, budget // (2 * trajectory))
        self._rollouts: dict[str, list[State]] = {}  # of the units out, below their new child
        self._fusions = Fusions(fusing) if fusing else None
        self._begun: Offer | None = None  # a fusion some of whose children are still to be made
        self._barren: tuple[float, float] | None = None  # NFE and decodes left by which no node of the tree as it is was affordable

    @classmethod
    def from_config(
        cls, id: str, setting: Setting, config: SearchConfig, phi: Callable[[int, int], float], policy: JumpPolicy
    ) -> MCTS:
        chooser = None
        if config.jump == "ige":
            chooser = Chooser(policy, config.ige_choice, config.price or 0.0, config.ige_top, config.jumps)
        return cls(
            id,
            setting,
            config.budget,
            Branching(setting.levels, config.phi, config.branchings, config.phi_schedule),
            seed=config.seed,
            seeds=config.seeds,
            policy=policy,
            stride=config.rollout_stride or 0,
            beta=config.explore,
            widening=Widening(config.widen_c, config.widen_a),
            rule=make_rule(config.backup, config.soft_strength, config.soft_across),
            share=config.in_flight_share,
            scored=config.step_reward != "none",
            wait=config.wait,
            fusing=_fusing(config),
            pruning=_pruning(config, chooser),
            chooser=chooser,
            max_decodes=config.max_decodes,
            max_seconds=config.max_seconds,
        )

    def calibrate(self, calibration: Calibration) -> None:
        """Let step scores count, by what this says of them; before the first ask."""
        assert not len(self.tree), "a search is calibrated before it begins"
        self.tree.calibration = calibration

    # ask -----------------------------------------------------------------------------------------------------------

    def _propose(self) -> Work | None:
        choice = self._selected()
        parent, offer = (choice.parent, choice) if isinstance(choice, Offer) else (choice, None)
        if parent is None or (self._guided and not self._room(self._cost(parent))):
            return None
        return self._expand(parent, offer)

    @property
    def _guided(self) -> bool:
        """Whether the first seeds are out, so that values choose."""
        return len(self.tree.root.children) >= self.seeds

    def _room(self, nfe: int) -> bool:
        """Whether `nfe` more may be in flight: values that are still out cannot guide."""
        out = self._reserved_nfe
        return out == 0 or out + nfe <= self.share * self.budget

    def _select(self) -> Node | Offer | None:
        """The node that gets a new child, or the offer by which it gets a fused one."""
        root = self.tree.root
        if self._goes_on(self._begun):
            return self._begun
        if not self._guided and root.open:
            return root if self._affordable(root) else None
        if not root.completed:
            return None
        left = self.nfe_left, self.decodes_left
        if self._barren and left[0] <= self._barren[0] and left[1] <= self._barren[1]:
            return None  # without a look at every node, as often as something returns when little is left
        found = select(self.tree, self.beta, self.widening, self._affordable, self._offer if self._fusions else None)
        self._barren = None if found or self._pruner else left
        return found

    def _goes_on(self, begun: Offer | None) -> bool:
        """Whether the next child of a fusion can be made now: not if a new child of its parent would be no sibling of its particles."""
        if begun is None or self._lost(begun.parent) or not self._affordable(begun.parent):
            return False
        return begun.kernel == kernel(self._plan(begun.parent)[0])

    def _offer(self, node: Node) -> Offer | None:
        if self._lost(node):
            return None  # a unit fuses the first state that it makes
        found = self._fusions.consider(node, self._plan(node)[0])
        return found if isinstance(found, Offer) else None

    def _lost(self, node: Node) -> list[Node]:
        """The states that a unit makes again before it can make a new child of `node`."""
        return self._pruner.lost(node) if self._pruner else []

    def _cost(self, node: Node) -> int:
        """NFE of a simulation that starts with a new child of `node`."""
        return len(self._lost(node)) + _nfe(self._plan(node))

    def _affordable(self, node: Node) -> bool:
        if self._pruner and self._pruner.waits(node):
            return False
        return self._cost(node) <= self.nfe_left and self._decodes(self._plan(node)) <= self.decodes_left

    def _expand(self, parent: Node, offer: Offer | None) -> Work:
        """Reserve the new child of `parent`, fused if there is an offer; its unit walks from there to level 0."""
        plan = self._up_to_the_stop(self._plan(parent))
        fuse = Fuse(self._fusions.fusing.mode, offer.particles, offer.weights, offer.draw) if offer else None
        if fuse:
            draw = (fuse.draw,) if fuse.draw else ()
            id, action = fuse_id(parent.id, fuse.mode, fuse.particles, fuse.weights, *draw), "fuse"
        elif parent is self.tree.root:
            id, action = seed_id(self.seed, parent.draws), "seed"
        elif parent.waiting:
            id, action = jump_id(parent.id, plan[0].k), "jump"
        else:
            id, action = jump_id(parent.id, plan[0].k, parent.draws), "jump"
        states = _named(plan, id)
        edges = tuple(Edge(state.id, state.level, state.phi) for state in states)
        scored = tuple(state.id for state in states if state.open)
        particle = self._keeps and not offer and states[0].level > 0 and (states[0].phi > 0 or not states[0].k)
        keep = (id, *scored) if particle and id not in scored else scored
        goes_on = parent is self.tree.root or parent.waiting  # by the policy
        name, child = self._dispatch(parent, states[0], offer.particles if offer else ())
        version = None if goes_on else self._chosen_by(parent)
        if lost := self._lost(parent):
            self._pruner.begin(lost)
            self._remade[name] = lost
            edges = (*(Edge(node.id, node.level, node.phi) for node in lost), *edges)
            keep = (*(node.id for node in lost if node.open), *keep)
        above = lost[0].parent if lost else parent
        start = None if above is self.tree.root else above.id
        if start is None:
            action = "fuse" if offer else "seed"
        if offer:
            self._fusions.dispatch(offer, child)
            self._begun = self._fusions.following(offer)
        self._rollouts[name] = states[1:]
        asked = scored if self.scored else ()
        return Work(name, self.id, self.setting, start, action, edges, keep, scored=asked, fuse=fuse, version=version)

    def _chosen_by(self, parent: Node) -> int | None:
        """The version of the IGE that has chosen the jump of a new child of `parent`; it is noted where there was none."""
        version = self.chooser.version(parent.id, parent.level) if self.chooser else None
        if self.chooser and version is None:
            self.chooser.silent[parent.level] += 1
        if self.chooser and self._pruning:
            left_out = [k for k in self.chooser.sizes_at(parent.id, parent.level) if self._pruning.hopeless(parent, k)]
            self.pruning["gain"] += len(left_out)
        return version

    def _k(self, parent: Node) -> int:
        """The jump of the next child of `parent`."""
        if self.chooser is None:
            return self.policy.k(parent.level)

        lost = len(self._lost(parent))

        def worth(k: int) -> bool:
            return lost + _nfe(self._plan_of(parent, k)) <= self.nfe_left

        return self.chooser.k(parent.id, parent.level, parent.draws - 1, worth)  # child 0 is that of the node's own roll-out

    def _plan(self, parent: Node) -> tuple[State, ...]:
        """The states, still without ids, of a simulation that starts with a new child of `parent`."""
        if parent.waiting:
            return self._plan_of(parent, self.policy.k(parent.level), noisy=False)
        return self._plan_of(parent, 0 if parent is self.tree.root else self._k(parent))

    def _up_to_the_stop(self, plan: tuple[State, ...]) -> tuple[State, ...]:
        """As much of a plan as is carried out at once: with `wait` up to the first state that may be branched."""
        if not self.wait or self.tree.calibration is None:
            return plan
        return plan[: next((place for place, state in enumerate(plan, 1) if state.open), len(plan))]

    def _plan_of(self, parent: Node, k: int, noisy: bool = True) -> tuple[State, ...]:
        """The same, for the child by a jump of k; 0: a seed."""
        seed = k == 0
        key = None if seed else (parent.level, k, noisy)
        if key not in self._plans:
            levels = self._rollout(parent.level - k)
            phi = self.branching.angle(parent.level) if noisy and not seed else 0.0
            head = State("", levels[0], k, phi, self._opens(parent.level, levels[0]))
            tail = [State("", s, a - s, 0.0, self._opens(a, s)) for a, s in zip(levels, levels[1:])]
            self._plans[key] = (head, *tail)
        return self._plans[key]

    def _opens(self, above: int, level: int) -> bool:
        """Whether a state may be branched: not if the next jump ends at level 0, where noise changes nothing, or is hopeless."""
        return self._could_open(above, level) and not self._hopeless(level)

    def _could_open(self, above: int, level: int) -> bool:
        ends = level == 1 if self.chooser else self.policy.k(level) == level
        return not ends and self.branching.opens(above, level)

    def _hopeless(self, level: int) -> bool:
        return self._pruning is not None and self._pruning.hopeless(level, self.policy.k(level))

    def _rollout(self, level: int) -> tuple[int, ...]:
        """The levels of a roll-out from `level` to 0."""
        return (*range(level, 0, -self.stride), 0) if self.stride else path(self.policy, level)

    def _decodes(self, plan: Iterable[State]) -> int:
        return 1 + sum(state.open for state in plan) * self.scored * self.setting.score_decodes

    # tell ----------------------------------------------------------------------------------------------------------

    def _apply(self, work: Work, outcome: Outcome) -> None:
        child, rollout, remade = self._returned(work), self._rollouts.pop(work.id), self._remade.pop(work.id, [])
        if remade:
            self._pruner.end(remade, None if outcome.error is not None else self.ledger.nfe)
        if outcome.error is not None or outcome.refused is not None:
            self._give_up(child, refused=outcome.error is None)
            return
        scores = [(id, score) for id, score in outcome.scores if score is not None]
        leaf = self.tree.complete(child, rollout, outcome.reward, scores)
        if leaf.terminal:
            self._families.add(leaf)
        if self._barren and any(self._affordable(node) for node in leaf.path() if node.open or node.waiting):
            self._barren = None
        if self.chooser:
            self._take(outcome, child, rollout)
        if self._fusions:
            child.fused = Fused(outcome.fallback, outcome.cosine, outcome.ess) if child.particles else None
            self._learn(child, outcome.reward if leaf.terminal else leaf.promised)
        if self._pruner:
            self.pruning["gain"] += sum(self._could_open(s.level + s.k, s.level) and self._hopeless(s.level) for s in (child, *rollout))
            self._pruner.update(leaf, self.ledger.nfe)

    def _take(self, outcome: Outcome, child: Node, rollout: Iterable[State]) -> None:
        """What is predicted of the new states, and, of a walk that has come to its end, what it has cost and, for a trainer, what the jump
        was worth."""
        for gains in outcome.gains:
            self.chooser.learn(gains)
        if outcome.reward is None:
            return
        self.chooser.calls.learn([child.level, *(state.level for state in rollout)])
        if not child.particles and child.k:
            self.chooser.returned(child.parent.id, child.parent.level, child.k, child.phi, outcome.reward)

    def released(self) -> list[str]:
        ids: list[str] = []
        if self._pruner:
            ids, self._pruner.released = self._pruner.released, []
        return ids

    def transitions(self) -> list[Transition]:
        return self.chooser.transitions() if self.chooser else []

    @property
    def notes(self) -> list[str]:
        """Where the IGE had nothing to say."""
        silent = self.chooser.silent if self.chooser else {}
        if not silent:
            return []
        levels = ", ".join(map(str, sorted(silent, reverse=True)))
        return [f"the IGE has no data at level {levels}; {sum(silent.values())} jumps from there went by the table"]

    def _give_up(self, child: Node, refused: bool) -> None:
        """Take back a child that was lost, or that could not be fused."""
        if child.particles:
            given_up = self._fusions.take_back(child)
            if self._begun and self._begun.set == given_up:
                self._begun = None
        (self.tree.take_back if refused else self.tree.lose)(child)

    def _learn(self, child: Node, reward: float) -> None:
        """What a fused child has realised; or, of a set that has grown and is due, why its rewards do not let it be fused."""
        if child.particles:
            self._fusions.complete(child, reward)
            if self._fusions.fusing.retire:
                self.pruning["retired"] = self._fusions.retired
            return
        refused = self._fusions.refused(child.parent, self._plan(child.parent)[0])
        if refused:
            self.refusals[refused.value] += 1
            log.info("fusion refused", extra={"search": self.id, "mode": self._fusions.fusing.mode, "reason": refused.value})

    def halt(self, costs: Iterable[Cost] = ()) -> None:
        super().halt(costs)
        self._rollouts.clear()
        self._remade.clear()


def _named(plan: Iterable[State], id: str) -> list[State]:
    """The states of a plan with their ids: the first is `id`, each later one a deterministic jump from the one before."""
    states = []
    for state in plan:
        id = jump_id(states[-1].id, state.k) if states else id
        states.append(State(id, state.level, state.k, state.phi, state.open))
    return states


def _fusing(config: SearchConfig) -> Fusing | None:
    if config.fuse == "none":
        return None
    rules = config.fuse_after, config.max_fusions, config.fuse_depth, config.particles == "retire"
    return Fusing(config.fuse, *rules, config.fused_children if config.fuse == "ensemble" else 1)


def _pruning(config: SearchConfig, chooser: Chooser | None) -> Pruning | None:
    if not config.prune:
        return None
    table = config.prune_gains
    node_gain = chooser and (lambda node, k: chooser.margin(node.id, node.level, k))
    constants = config.prune_z, config.prune_least, config.prune_stages, config.prune_cold, config.prune_revive
    return Pruning(config.prune, table and (lambda level, k: table[level - 1]), *constants, node_gain)


def _nfe(plan: Iterable[State]) -> int:
    return sum(state.level > 0 for state in plan)
