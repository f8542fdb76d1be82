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
a_sel + a_cls with alpha/2 each, every bound at the full level of its stage, for any K. If the
selection votes are unanimous, ``interval`` tries the routed level alone and is ``point``: which of
the two is done is a function of selection votes, so each keeps its own budget. With ``runner_up``
the classifier's level is shared by two bounds.
"""

from dataclasses import dataclass
from math import inf

from dualsmooth.engine.bounds.sample_size import Pilot
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.checks import check_votes, error_level, positive
from dualsmooth.engine.draws import LEVELS, Counts, Draw, Phase, Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.ledger import AlphaLedger, Bound
from dualsmooth.engine.methods.chain import chain_sizes, chain_trials
from dualsmooth.engine.methods.decide import Stream, decide
from dualsmooth.engine.methods.method import Networks, PredictProcedure, Procedure
from dualsmooth.engine.methods.routing import (
    NOTHING,
    ChainClaim,
    Interval,
    Outcome,
    constancy_bounds,
    growing_chain,
    median_level,
    plurality_level,
    possible_levels,
)
from dualsmooth.engine.methods.votes import check_runner_up, class_radius, majority_class, top_class
from dualsmooth.engine.radius.decision import check_grid

RULES = {"median": ("interval", "point"), "plurality": ("point",)}
"""Selector rules and the routings each supports, default first."""


@dataclass(frozen=True)
class DualSmoothing:
    """Certify with a smoothed selector that picks the noise level of each input.

    Parameters
    ----------
    networks : Networks
        A bundle with a ``selector``, ``tau`` and ascending ``sigmas``.
    selector_rule : str
        ``median`` (ordered levels, ours) or ``plurality`` (the published Dual RS).
    routing : str or None
        ``interval`` or ``point``; None means interval for median and point for plurality.
    published_split : bool
        Spend alpha/2 per stage as published, instead of the sharper minimum rule.
    runner_up : bool
        Bound the classifiers' strongest rival too (`dualsmooth.engine.methods.fixed`).

    Raises
    ------
    ArgumentError
        If an option is unknown, options do not fit, or the bundle lacks a part.
    """

    networks: Networks
    selector_rule: str = "median"
    routing: str | None = None
    published_split: bool = False
    runner_up: bool = False

    def __post_init__(self) -> None:
        if self.selector_rule not in RULES:
            raise ArgumentError("selector_rule", f"must be one of {', '.join(RULES)}",
                                self.selector_rule)  # fmt: skip
        routings = RULES[self.selector_rule]
        if self.routing is None:
            object.__setattr__(self, "routing", routings[0])
        if self.routing not in routings:
            raise ArgumentError("routing", f"must be one of {', '.join(routings)} with "
                                f"selector_rule={self.selector_rule}", self.routing)  # fmt: skip
        if self.networks.tau is None or not self.networks.sigmas:
            raise ArgumentError("bundle", "must have a selector, tau and sigmas", "none",
                                "use the fixed method")  # fmt: skip
        positive("tau", self.networks.tau)
        if len(self.networks.sigmas) > LEVELS:
            raise ArgumentError("sigmas", f"must be at most {LEVELS} levels", self.networks.sigmas)
        for sigma in self.networks.sigmas:
            self.networks.classifier_at(sigma)

    @property
    def name(self) -> str:
        """Method and options as written into certificates."""
        split = ", published split" if self.published_split else ""
        rival = ", runner-up" if self.runner_up else ""
        return f"dual({self.selector_rule}, {self.routing}{split}{rival})"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks it draws from."""
        classifiers = (self.networks.classifier_at(sigma) for sigma in self.networks.sigmas)
        return ("selector", *dict.fromkeys(classifiers))

    def certify(self, budget: Budget, alpha: float) -> Procedure:
        """CERTIFY: theorem B of Dual RS, or procedure C1 for interval routing."""
        check_grid(budget.radii, max(self.networks.sigmas), budget.n, alpha)
        check_runner_up(self.runner_up, budget)
        return self._certify(budget, error_level("alpha", alpha, 4 if self.runner_up else 2))

    def _certify(self, budget: Budget, alpha: float) -> Procedure:
        guess = yield self._select(Phase.SELECT_GUESS, budget.n0)
        start = plurality_level(guess) if self.selector_rule == "plurality" else median_level(guess)
        chain = self._chain(guess, start)
        ledger = self._ledger(alpha, len(chain))
        if start is None:
            return self._certificate(None, None, NOTHING, [], ledger)
        if budget.kind == "decide":
            return (yield from self._decide(guess, start, chain, budget, ledger))
        n_selector, n_classifier, candidate = budget.n, budget.n, None
        if budget.tolerance is not None:
            pilot = yield self._classify(Phase.CLASS_GUESS, start, budget.n0)
            candidate = top_class(pilot)
            votes = 0 if candidate is None else int(pilot[candidate])
            n_selector, n_classifier = chain_sizes(
                self.selector_rule, chain, (guess, self._tau),
                Pilot(votes, budget.n0, self.networks.sigmas[start], ledger.levels["classifier"]),
                ledger, budget.n, budget.tolerance,
            )  # fmt: skip
        estimate = yield self._select(Phase.SELECT_ESTIMATE, n_selector)
        claim, bounds = self._constancy(estimate, chain, ledger.levels["selector"])
        if budget.kind == "fixed" and claim.next_levels():
            candidate = top_class((yield self._classify(Phase.CLASS_GUESS, start, budget.n0)))
        while candidate is not None and (levels := claim.next_levels()):
            radii = []
            for level in levels:
                counts = yield self._classify(Phase.CLASS_ESTIMATE, level, n_classifier)
                sigma, share = self.networks.sigmas[level], ledger.levels["classifier"]
                radius, behind = class_radius(counts, candidate, sigma, share, self.runner_up)
                bounds.extend(behind)
                radii.append(radius)
            claim.add(radii)
        return self._certificate(start, candidate, claim.outcome, bounds, ledger)

    def _decide(
        self, guess: Counts, start: int, chain: list[Interval], budget: Budget, ledger: AlphaLedger
    ) -> Procedure:
        pilot = yield self._classify(Phase.CLASS_GUESS, start, budget.n0)
        candidate = top_class(pilot)
        if candidate is None:
            return self._certificate(start, None, Outcome(0.0, None, "classifier"), [], ledger)
        selector = Stream(self._select(Phase.SELECT_ESTIMATE, budget.n), guess)
        classifiers = [
            Stream(self._classify(Phase.CLASS_ESTIMATE, level, budget.n),
                   pilot if level == start else None)
            for level in range(len(self.networks.sigmas))
        ]  # fmt: skip
        sets = chain_trials(self.selector_rule, chain, selector, classifiers, candidate, ledger)
        radius, member, failed_at = yield from decide(budget.radii, sets)
        outcome = Outcome(radius, None if member is None else chain[member], failed_at)
        tested = {trial: None for trials in sets for trial in trials if trial.tests}
        return self._certificate(start, candidate, outcome, [t.bound for t in tested], ledger)

    def _chain(self, guess: Counts, start: int | None) -> list[Interval]:
        """Sets of levels to try, from selection votes only; one set if they are unanimous."""
        if start is None:
            return []
        unanimous = guess[start] == guess.sum()
        grows = self.routing == "interval" and not unanimous
        return growing_chain(guess, start) if grows else [(start, start)]

    def _ledger(self, alpha: float, sets: int) -> AlphaLedger:
        if self.published_split:
            return AlphaLedger("sum", alpha, {"selector": alpha / 2, "classifier": alpha / 2})
        if sets <= 1:
            return AlphaLedger("minimum", alpha, {"selector": alpha, "classifier": alpha})
        return AlphaLedger("chain", alpha, {"selector": alpha / 2, "classifier": alpha / 2})

    def _constancy(
        self, estimate: Counts, chain: list[Interval], alpha: float
    ) -> tuple[ChainClaim, list[Bound]]:
        rule = self.selector_rule
        sets = [constancy_bounds(rule, estimate, s, self._tau, alpha) for s in chain]
        constancy = [min((bound.radius for bound in bounds), default=inf) for bounds in sets]
        distinct = {bound.event: bound for bounds in sets for bound in bounds}
        return ChainClaim(chain, constancy), list(distinct.values())

    def _certificate(
        self,
        start: int | None,
        candidate: int | None,
        outcome: Outcome,
        bounds: list[Bound],
        ledger: AlphaLedger,
    ) -> Certificate:
        certified = outcome.radius > 0.0
        return Certificate(
            predicted=candidate if certified else None,
            radius=outcome.radius,
            sigma=None if start is None else self.networks.sigmas[start],
            method=self.name,
            abstained_at=None if certified else outcome.failed_at,
            interval=outcome.interval,
            alpha=ledger,
            bounds=tuple(bounds),
        )

    def predict(self, n: int, alpha: float) -> PredictProcedure:
        """PREDICT: P(returned class is not the deployed classifier's) <= alpha.

        The noise level is estimated afresh at this input; alpha/2 goes to the selector and alpha/2
        to the classifier. With the median rule every level the selector cannot exclude must agree.
        """
        return self._predict(check_votes("n", n), error_level("alpha", alpha, 4) / 2)

    def _predict(self, n: int, alpha: float) -> PredictProcedure:
        selection = yield self._select(Phase.SELECT_PREDICT, n)
        levels = possible_levels(self.selector_rule, selection, alpha)
        sigmas = tuple(self.networks.sigmas[level] for level in levels)
        answers: list[int | None] = []
        for level in levels:
            counts = yield self._classify(Phase.CLASS_PREDICT, level, n)
            answers.append(majority_class(counts, alpha))
            if answers[-1] is None or answers[-1] != answers[0]:
                return Prediction(None, sigmas, "classifier")
        return Prediction(answers[0], sigmas, None) if answers else Prediction(None, (), "selector")

    @property
    def _tau(self) -> float:
        return positive("tau", self.networks.tau)

    def _select(self, phase: Phase, count: int) -> Draw:
        return Draw("selector", self._tau, phase, 0, count)

    def _classify(self, phase: Phase, level: int, count: int) -> Draw:
        sigma = self.networks.sigmas[level]
        return Draw(self.networks.classifier_at(sigma), sigma, phase, 0, count, level)
