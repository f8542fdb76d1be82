"""A session whose batches fit into memory.

The padded batch shape is part of what is certified, so it may only be chosen before the first
certificate. It is then recorded, and a run that meets the limit later stops instead of changing it.
"""

import dataclasses

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.session import Session, bundle_of
from dualsmooth.engine.samplers.sampler import MakeSampler
from dualsmooth.engine.settings import Settings

SMALLEST_BATCH = 8
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")


def fitting_session(method: Method, settings: Settings, make: MakeSampler | None) -> Session:
    """Open a session, which proves every network on full batches.

    Out of memory, a batch shape left to the engine is halved, down to 8; one that was given is
    refused.
    """
    from dualsmooth.engine.samplers.choose import resolve  # imports torch

    chosen = settings = resolve(settings, bundle_of(method), method.needs_fp32)
    while True:
        try:
            return Session.open(method, chosen, make)
        except Exception as error:
            size = chosen.padded_batch(bundle_of(method).input_shape)
            if not is_out_of_memory(error):
                raise
            if settings.batch_size is not None or size // 2 < SMALLEST_BATCH:
                rule, hint = "must fit into memory", "give a smaller one"
                raise ArgumentError("batch_size", rule, size, hint) from error
        chosen = dataclasses.replace(chosen, batch_size=size // 2)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error) for text in _MESSAGES):
            return True
        error = error.__cause__
    return False
