"""Where every network comes in: what may be certified, and what is refused with one line.

What is tried, watched, promised and not promised: `docs/networks.md`.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from math import inf
from time import thread_time
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from dualsmooth.engine.errors import FileError, reason_of
from dualsmooth.engine.models.capture import is_known
from dualsmooth.engine.models.copies import again
from dualsmooth.engine.models.digest.exported import Exported
from dualsmooth.engine.models.digest.hidden_state import kept_state, names_of_changes, packages_of
from dualsmooth.engine.models.digest.live_module import covered_code
from dualsmooth.engine.models.graph.circumstances import side_by_side, with_gradients
from dualsmooth.engine.models.graph.row_passes import Passes
from dualsmooth.engine.models.logits import FORMS, LOGITS, Plain, Wrap, fault_of, hint_at, logits_in
from dualsmooth.engine.models.outside import LEFT, Outside
from dualsmooth.engine.models.registry import packages
from dualsmooth.engine.models.rows import BOUNDS, MATES, Agree, close, fault, noisy, on_trial
from dualsmooth.engine.terminal.progress import step

SECONDS, SLOW = 0.2, 2.0
"""What trials of a small network may take on more than FEW rows, and those of a slow one on more
than FEWEST: a row and its mate."""
FEWEST, FEW, MOST = 2, 8, 256
_PASSES = 2 * len(MATES) + 12
_ASKS = "noise, dropout, augmentation, timers, look-ups and numpy.empty (numpy.zeros may stay)"
_STATE = (
    "keep results only `if self.training:`, or pop() those of hooks; make masks of a batch's size "
    "in each pass; take counters and averages out of it"
)
_ADMITTED: WeakKeyDictionary[object, Any] = WeakKeyDictionary()


def admitted(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    outputs: int | None,
    role: str,
    origin: str,
    owner: object = None,
) -> nn.Module:
    """A network that was tried, its logits taken out of what it returns: eval, float32, on the CPU.

    Refused is what cannot run, gives something else than logits, or whose logits depend on batch
    mates, state, random numbers, threads or the order of calls. What looks at a batch as a whole
    gets each row alone. Trials of a module's owner, which it is a copy of, are not repeated.
    """
    trial = _Trial(module, input_shape, outputs, role, origin)
    if trial.known and owner is None:
        on_trial(trial.first_pass)
        return trial.module
    owner = module if owner is None else owner
    tried, found, forms = _ADMITTED.get(owner, (None, None, ()))
    state = (input_shape, () if trial.known else kept_state(module, packages_of(module)))
    if tried != state or outputs not in (None, found):
        with step(f"{role}: trying whether it may be certified"):
            on_trial(trial.first_pass if trial.known else trial.run)
        trial.check_covered(getattr(owner, "weights", None))
        forms = trial.forms()
        _ADMITTED[owner] = state, trial.found, forms
    for form in forms:
        module = form(module).eval()
    return module


def outputs_of(owner: object) -> int:
    """How many logits the trials of an owner's module found."""
    outputs: int = _ADMITTED[owner][1]
    return outputs


class _Trial:
    """One network on trial."""

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        outputs: int | None,
        role: str,
        origin: str,
    ) -> None:
        self.module, self.asked, self.found = module, (shape, outputs), outputs
        self._role, self._origin, self._outside = role, origin, Outside()
        self._passes, self._reader, self._beside = Passes(), nn.Module(), nn.Module()
        self._timed, self._shares = (torch.empty(0), torch.empty(0)), False
        self.known = is_known(module, read=True)
        self._watch = nullcontext() if self.known else self._outside

    def first_pass(self) -> None:
        """Look at what kind of thing the logits of ordinary rows are: of known code, of one."""
        (shape, outputs), rows = self.asked, 1 if self.known else FEWEST + 1
        with torch.inference_mode():
            batch = noisy(FEW, shape)[-rows:].contiguous()
            given = batch.clone()
        received = self._pass(batch, copied=False)
        logits = logits_in(received)
        is_double = isinstance(logits, torch.Tensor) and logits.dtype == torch.float64
        if not torch.equal(given, batch) or logits is not received or is_double:
            self.module, self._reader = Plain(self.module), Plain(self._reader)
        if said := fault_of(received, rows, outputs):
            rule = f"{self._role} {LOGITS}"
            if outputs is not None:
                rule = f"{self._role} must map images {shape} to {outputs} logits, a tensor"
            raise FileError(self._origin, rule, said)
        self.found = logits.shape[1]

    def run(self) -> None:
        """All trials of a network of which nothing is known."""
        try:
            self._compare()
        except FileError:
            if not self._outside.taken(self.module):
                raise
        if taken := self._outside.taken(self.module):
            rule = "must not draw random numbers, read a clock or ask the system"
            raise self._refused(rule, taken[0], f"take {_ASKS} out of it")

    def forms(self) -> list[type[Wrap]]:
        """What goes around the module, one after the other."""
        alone = self._passes.whole.is_decided() and not self.known
        needed = zip(FORMS, (isinstance(self.module, Plain), alone, self._shares), strict=True)
        forms = [form for form, is_needed in needed if is_needed]
        for form in forms:
            if form.told:
                warnings.warn(f"network {self._role} runs {form.told}", stacklevel=3)
        return forms

    def check_covered(self, weights: object) -> None:
        """Refuse a network that runs other code than its digest, or architecture, stands for."""
        covered = covered_code(weights)
        named = packages() if type(weights) in (bytes, Exported) else set()
        if others := [] if covered is None else self._outside.others(covered, named):
            hint = "name such functions in its own code, or leave the operator out"
            rule = f"{self._role} must run no code that its digest does not cover"
            raise FileError(self._origin, rule, others[0], hint)

    def _compare(self) -> None:
        try:
            sharing = (False, True, True)
            fresh, self._reader, self._beside = (again(self.module, sharing=s) for s in sharing)
        except Exception:  # an object of a library inside
            fresh = None
        try:
            self.first_pass()
        finally:
            self._outside.read.clear()  # of what was imported meanwhile
        ran = self._ran()
        before = kept_state(self.module, ran)
        if self._rows() == MOST:
            self._fits(MOST, inf)
        batch, wanted = self._timed
        if ran != (later := self._ran()):
            ran, before = later, kept_state(self.module, later)
        agree = close(BOUNDS[torch.float32], wanted)
        alone = len(batch) <= FEW and self._passes.keep_rows_apart(self._reader, batch, wanted)
        found = fault(self._pass, batch, agree, MATES, wanted, brief=alone)
        if alone and not found and (self._outside.hands_over() or not self._passes.are_one(batch)):
            found = fault(self._pass, batch, agree, MATES, wanted)
        if found:
            rule = "must give an image the same logits whatever else is in the batch"
            if found.startswith("when"):
                rule = "must give a batch the same logits every time"
            hint = "take batch statistics, scales of a whole batch and what it remembers out of it"
            if (wanted - wanted[0]).abs().max() < max(1e-30, 2**-8 * float(wanted.abs().max())):
                hint = f"they hardly move, as of random weights: load trained ones, or {hint}"
            elif self._outside.halves:
                hint = "it casts to 16 bits, which makes large steps of last bits: leave that out"
            raise self._refused(rule, f"others {found}", hint)
        if kept_state(self.module, ran) != before:
            others = batch.flip(0).repeat(3, 1, 1, 1)  # so many passed in no trial
            tried = 255 * batch, 255 * others
            named = names_of_changes(self.module, lambda: list(map(self._pass, tried)))
            received = f"other attributes after a pass{named}"
            raise self._refused("must not change itself", received, _STATE)
        for left in LEFT if self._outside.left_some else ():
            self._outside.left = left
            if not agree(self._pass(batch), wanted):
                received = f"other logits where torch.empty holds {left:g}"
                raise self._refused("must not read memory that nothing was written to", received)
        if fresh is not None:
            self._compare_fresh(fresh, batch, wanted, agree)

    def _compare_fresh(
        self, fresh: nn.Module, batch: torch.Tensor, wanted: torch.Tensor, agree: Agree
    ) -> None:
        """Compare a copy that sees another batch first, other threads, and gradients."""
        self.module, kept = Plain(fresh), self.module
        self._pass(255 * batch.flip(0))
        with ThreadPoolExecutor(1) as votes:  # are drawn in threads
            of_thread = votes.submit(on_trial, lambda: self._pass(batch))
        of_gradients = with_gradients(self.module, batch[:1])
        found = (
            ("order of calls", "after another first batch", self._pass(batch)),
            ("thread that it runs in", "in another thread", of_thread.result()),
            ("mode that it runs in", "outside of inference mode", of_gradients),
        )
        both = self.module, Plain(self._beside)
        self.module, beside = kept, side_by_side(both, batch, on_trial)
        self._shares = beside is None or not agree(beside, wanted[:2])
        for what, where, logits in found:
            if logits is not None and not agree(logits, wanted[: len(logits)]):
                raise self._refused(f"must not depend on the {what}", f"other logits {where}")

    def _ran(self) -> set[str]:
        """Names of the packages whose code ran, or is the module's."""
        return self._outside.packages() | packages_of(self.module)

    def _rows(self) -> int:
        """Rows of the trials: doubled as long as those that passed leave time for all passes."""
        rows = FEWEST
        while rows < MOST and self._fits(rows, SLOW if rows < FEW else SECONDS):
            rows *= 2
        return rows

    def _fits(self, rows: int, seconds: float) -> bool:
        """Whether all passes of rows, kept with logits, take less time; slow ones run twice."""
        batch = noisy(rows, self.asked[0]).contiguous()
        for _ in range(2):
            start = thread_time()  # others on the machine must not make the trials weaker
            self._timed = batch, self._pass(batch).clone()
            if _PASSES * (thread_time() - start) <= seconds:
                return True
        return False

    def _pass(self, batch: torch.Tensor, copied: bool = True) -> Any:
        try:
            with torch.inference_mode(), self._watch:
                given = batch.clone() if copied else batch
                with self._passes.of(given):
                    return self.module(given)
        except Exception as error:  # whatever the network and its libraries raise
            shape, outputs = self.asked
            to = "logits" if outputs is None else f"{outputs} logits"
            rule = f"{self._role} must map images {shape}, any number of them, to {to}"
            reason = reason_of(error)
            raise FileError(self._origin, rule, reason, hint_at(reason)) from error

    def _refused(self, rule: str, received: str, hint: str = "") -> FileError:
        return FileError(self._origin, f"{self._role} {rule}", received, hint)
