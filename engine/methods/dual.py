"""Dual randomized smoothing: a smoothed selector picks sigma, a classifier smoothed at it votes.

Levels s_1 < .. < s_K, selector h smoothed at tau, classifiers f_k smoothed at s_k (they may be
different networks). The deployed classifier answers argmax_c P(f_k(x + s_k w) = c) with
k = kappa(x) chosen by the smoothed selector; a radius must hold although kappa changes with x.

Theorem A (Sun, Mao and Vechev, 2025), rule ``plurality``. kappa = argmax_i P(h = i). If
P(h = i) >= q > 1/2 and P(f_i = c) >= p > 1/2 at x0, then g = c for
||x - x0|| < min(tau z(q), s_i z(p)).

Theorem C (ours), rule ``median``. kappa = min{j : P(h <= j) >= 1/2}. With u_i = tau z(P(h >= i)),
v_j = tau z(P(h <= j)) (infinite where the event is certain) and rho_k = s_k z(P(f_k = c)):
kappa stays in [i..j] inside min(u_i, v_j), so g = c inside min(u_i, v_j, min_{i<=k<=j} rho_k), for
every interval. ``point`` claims the interval of the routed level alone; ``interval`` the best of a
chain of growing intervals, the last of which is all levels and needs no selector.

Assumptions. The n0 selection votes (level, class, chain) are independent of the estimation votes;
n0 and n are fixed beforehand; noise is Gaussian. All selector bounds of a chain come from one
sample.

Failure budget. ``plurality`` and ``point`` claim one minimum, so every bound is at the full alpha
(minimum rule); ``published_split`` uses the paper's alpha/2 per stage. ``interval`` is Theorem C1:
alpha/2 per stage, every bound at the full level of its stage, for any K. If the selection votes are
unanimous, it tries the routed level alone and is ``point``: selection votes decide which of the two
is done, so each keeps its own budget. With ``runner_up`` two bounds share the classifier's level.
"""

from dataclasses import dataclass
from typing import Annotated

from dualsmooth.engine.bounds.sample_size import Pilot
from dualsmooth.engine.budget import KINDS, Budget
from dualsmooth.engine.certificate import Claim
from dualsmooth.engine.checks import one_of, positive
from dualsmooth.engine.draws import LEVELS, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.chain import chain_sizes, chain_trials
from dualsmooth.engine.methods.decide import VoteStream, check_radii, decide
from dualsmooth.engine.methods.fixed import RunnerUp
from dualsmooth.engine.methods.method import Method, PredictProcedure, Procedure
from dualsmooth.engine.methods.options import Options
from dualsmooth.engine.methods.routing import (
    ChainClaim,
    Outcome,
    Route,
    growing_chain,
    possible_levels,
    routed_level,
)
from dualsmooth.engine.methods.votes import class_radius, majority_class, top_class
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.joint import joint_level, with_joint_votes
from dualsmooth.engine.models.network import Networks, check_networks
from dualsmooth.engine.models.operating_point import at_point

RULES = {"median": ("interval", "point"), "plurality": ("point",)}
"""Selector rules and the routings each supports, default first."""
RULE_HELP = "median (ordered levels, default) or plurality (published Dual RS)"
PREFER_HELP = "small, balanced or large noise, or a number: what thresholds of a selector move by"
ROUTING_HELP = "interval (best chain of levels, default with median) or point"


@dataclass(frozen=True)
class DualSmoothing(Method):
    """Certify with a smoothed selector that picks the noise level of each input.

    Parameters
    ----------
    networks : Networks
        A bundle with a ``selector``, ``tau`` and ascending ``sigmas``, a classifier for each.
    selector_rule : {"median", "plurality"}
        Ordered levels (ours), or the published Dual RS.
    routing : {"interval", "point", None}
        None means interval for median and point for plurality.
    published_split : bool
        Spend alpha/2 per stage as published, instead of the sharper minimum rule.
    runner_up : bool
        Bound the classifiers' strongest rival too (`dualsmooth.engine.methods.fixed`).
    """

    networks: Networks
    selector_rule: str = "median"
    routing: str | None = None
    published_split: bool = False
    runner_up: bool = False
    budgets = KINDS

    def __post_init__(self) -> None:
        routings = RULES[one_of("selector_rule", self.selector_rule, tuple(RULES))]
        if self.routing is None:
            object.__setattr__(self, "routing", routings[0])
        if self.routing not in routings:
            rule = f"must be one of {', '.join(routings)} with selector_rule={self.selector_rule}"
            raise ArgumentError("routing", rule, self.routing)
        if check_networks(self.networks).tau is None or not self.networks.sigmas:
            rule = "must have a selector, tau and sigmas"
            raise ArgumentError("bundle", rule, "none", "use the fixed method")
        positive("tau", self.networks.tau)
        if len(self.networks.sigmas) > LEVELS:
            raise ArgumentError("sigmas", f"must be at most {LEVELS} levels", self.networks.sigmas)
        for sigma in self.networks.sigmas:
            self.networks.classifier_at(sigma)

    @property
    def name(self) -> str:
        split = ", published split" if self.published_split else ""
        rival = ", runner-up" if self.runner_up else ""
        point = getattr(self.networks, "preference", "")  # part of the digest of a bundle
        prefer = f", prefer {point}" if point else ""
        joint = "" if joint_level(self.networks) is None else ", joint votes"
        return f"dual({self.selector_rule}, {self.routing}{split}{rival}{prefer}{joint})"

    @property
    def roles(self) -> tuple[str, ...]:
        asked = [s for level, s in enumerate(self.sigmas) if level != joint_level(self.networks)]
        return tuple(dict.fromkeys(["selector", *map(self.networks.classifier_at, asked)]))

    @property
    def shares(self) -> int:
        return 4

    def check(self, budget: Budget, alpha: float) -> None:
        super().check(budget, alpha)
        check_radii(budget, max(self.networks.sigmas), alpha, self.runner_up)

    @with_joint_votes
    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        """Theorem A of Dual RS, or procedure C1 for interval routing."""
        guess = yield self._select(Phase.SELECT_GUESS, budget.n0)
        start = routed_level(self.selector_rule, guess)
        if start is None:
            return Claim.of(None, 0.0, None, self._ledger(alpha, 0), failed_at="selector")
        grows = self.routing == "interval" and guess[start] != guess.sum()
        chain = growing_chain(guess, start) if grows else [(start, start)]
        ledger = self._ledger(alpha, len(chain))
        route = Route(self.selector_rule, self._tau, guess, start, chain, ledger)
        spend = {"fixed": self._fixed, "precise": self._precise, "decide": self._decide}
        return (yield from spend[budget.kind](route, budget))

    def _fixed(self, route: Route, budget: Budget) -> Procedure:
        """The class is guessed only if the selector's votes leave a set to certify."""
        estimate = yield self._select(Phase.SELECT_ESTIMATE, budget.n)
        claim, bounds = route.constancy(estimate)
        candidate = None
        if claim.next_levels():
            candidate = top_class((yield self._classify(Phase.CLASS_GUESS, route.start, budget.n0)))
        return (yield from self._agreement(route, candidate, claim, bounds, budget.n))

    def _precise(self, route: Route, budget: Budget) -> Procedure:
        """Both pilots first: they plan the votes of the selector and of every classifier."""
        pilot = yield self._classify(Phase.CLASS_GUESS, route.start, budget.n0)
        candidate, sigma = top_class(pilot), self.sigmas[route.start]
        votes = 0 if candidate is None else int(pilot[candidate])
        seen = Pilot(votes, budget.n0, sigma, route.ledger.levels["classifier"])
        n_selector, n_classifier = chain_sizes(route, seen, budget, joint_level(self.networks))
        estimate = yield self._select(Phase.SELECT_ESTIMATE, n_selector)
        claim, bounds = route.constancy(estimate)
        return (yield from self._agreement(route, candidate, claim, bounds, n_classifier))

    def _decide(self, route: Route, budget: Budget) -> Procedure:
        """Sequential tests of the selector's events and of the class at every level."""
        pilot = yield self._classify(Phase.CLASS_GUESS, route.start, budget.n0)
        candidate = top_class(pilot)
        if candidate is None:
            return self._claim(route, None, Outcome(0.0, None, "classifier"), [])
        selector = VoteStream(self._select(Phase.SELECT_ESTIMATE, budget.n), route.guess)
        draws = [self.classify(Phase.CLASS_ESTIMATE, sigma, budget.n) for sigma in self.sigmas]
        classifiers = [
            VoteStream(draw, pilot if level == route.start else None)
            for level, draw in enumerate(draws)
        ]
        sets = chain_trials(route, selector, classifiers, candidate)
        radius, member, failed_at = yield from decide(budget.radii, sets)
        outcome = Outcome(radius, None if member is None else route.chain[member], failed_at)
        tested = {trial: None for trials in sets for trial in trials if trial.tests}
        return self._claim(route, candidate, outcome, [t.bound for t in tested])

    def _agreement(
        self, route: Route, candidate: int | None, claim: ChainClaim, bounds: list[Bound], n: int
    ) -> Procedure:
        """Radii of the classifiers, level by level, while they can improve the claim."""
        while candidate is not None and (levels := claim.next_levels()):
            radii = []
            for level in levels:
                counts = yield self._classify(Phase.CLASS_ESTIMATE, level, n)
                sigma, share = self.sigmas[level], route.ledger.levels["classifier"]
                radius, behind = class_radius(counts, candidate, sigma, share, self.runner_up)
                bounds.extend(behind)
                radii.append(radius)
            claim.add(radii)
        return self._claim(route, candidate, claim.outcome, bounds)

    def _ledger(self, alpha: float, sets: int) -> AlphaLedger:
        if self.published_split or sets > 1:
            rule = "sum" if self.published_split else "chain"
            return AlphaLedger(rule, alpha, {"selector": alpha / 2, "classifier": alpha / 2})
        return AlphaLedger("minimum", alpha, {"selector": alpha, "classifier": alpha})

    def _claim(
        self, route: Route, candidate: int | None, outcome: Outcome, bounds: list[Bound]
    ) -> Claim:
        radius, interval, failed_at = outcome
        sigma = self.sigmas[route.start]
        return Claim.of(candidate, radius, sigma, route.ledger, bounds, failed_at, interval)

    @with_joint_votes
    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        """The level is estimated afresh, alpha/2 per stage; all that cannot be excluded agree."""
        selection = yield self._select(Phase.SELECT_PREDICT, n)
        levels = possible_levels(self.selector_rule, selection, alpha / 2)
        sigmas = tuple(self.sigmas[level] for level in levels)
        answers: list[int | None] = []
        for level in levels:
            counts = yield self._classify(Phase.CLASS_PREDICT, level, n)
            answers.append(majority_class(counts, alpha / 2))
            if answers[-1] is None or answers[-1] != answers[0]:
                return Prediction(None, sigmas, "classifier")
        return Prediction(answers[0], sigmas, None) if answers else Prediction(None, (), "selector")

    @property
    def _tau(self) -> float:
        return positive("tau", self.networks.tau)

    def _select(self, phase: Phase, count: int) -> Draw:
        return Draw("selector", self._tau, phase, 0, count)

    def _classify(self, phase: Phase, level: int, count: int) -> Draw:
        return self.classify(phase, self.sigmas[level], count)


@dataclass(frozen=True, kw_only=True)
class DualOptions(Options):
    """Options of ``dual``."""

    selector_rule: Annotated[str, RULE_HELP] = "median"
    routing: Annotated[str | None, ROUTING_HELP] = None
    published_split: Annotated[bool, "spend alpha/2 per stage, as published"] = False
    runner_up: RunnerUp = False
    prefer: Annotated[str | None, PREFER_HELP] = None

    def build(self, bundle: Bundle) -> DualSmoothing:
        options = {name: value for name, value in vars(self).items() if name != "prefer"}
        at = bundle if self.prefer is None else at_point(bundle, self.prefer)
        return DualSmoothing(at, **options)
