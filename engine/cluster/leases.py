"""Which worker does which images: small leases, given again if a worker is lost or slow.

A vote does not depend on who casts it, so the first answer for an image stands, and a second one
must be equal to it.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_LOSSES = 3
"""Workers a lease may lose before its images are given up: it may be what kills them."""

MOST_HOLDERS = 2
SHARES = 8
"""Leases cut per worker where images are few."""


@dataclass
class Lease:
    """Images for one worker; who is at work on them, and how many workers it was lost with."""

    number: int
    image_ids: tuple[int, ...]
    holders: set[int] = field(default_factory=set)
    losses: int = 0


class Leases:
    """All leases of a run, of `size` distinct images each."""

    def __init__(self, image_ids: Iterable[int], size: int) -> None:
        ids = list(image_ids)
        parts = [tuple(ids[i : i + size]) for i in range(0, len(ids), size)]
        self._open = {number: Lease(number, part) for number, part in enumerate(parts)}
        self._waiting = deque(self._open.values())
        self._missing = set(ids)
        self.failed: list[int] = []

    @property
    def missing(self) -> bool:
        """Whether an image is still to be certified by somebody."""
        return bool(self._missing)

    def give(self, worker: int) -> Lease | None:
        """A lease for a worker with nothing to do; the oldest one of another worker if none waits.

        None if nothing would help.
        """
        while self._waiting:
            lease = self._waiting.popleft()
            if lease.number in self._open:
                lease.holders.add(worker)
                return lease
        for lease in self._open.values():
            if worker not in lease.holders and len(lease.holders) < MOST_HOLDERS:
                lease.holders.add(worker)
                return lease
        return None

    def certified(self, image_id: int) -> bool:
        """Note a certificate; False if the image had one already."""
        if image_id not in self._missing:
            return False
        self._missing.remove(image_id)
        return True

    def left(self, lease: int) -> list[int]:
        """Images of a lease still to be certified."""
        found = self._open.get(lease)
        return [] if found is None else [i for i in found.image_ids if i in self._missing]

    def done(self, lease: int) -> None:
        """A worker has certified everything in a lease."""
        self._open.pop(lease, None)

    def lost(self, worker: int) -> None:
        """A worker is gone: its leases are given again, before all others, or given up."""
        for lease in list(self._open.values()):
            if worker not in lease.holders:
                continue
            lease.holders.discard(worker)
            lease.losses += 1
            if lease.losses >= MOST_LOSSES:
                self._give_up(lease)
            elif not lease.holders:
                self._waiting.appendleft(lease)

    def _give_up(self, lease: Lease) -> None:
        self.failed += self.left(lease.number)
        self._missing -= set(lease.image_ids)
        self.done(lease.number)


def lease_size(images: int, workers: int, slots: int) -> int:
    """Images per lease: as many as a worker has in flight, fewer where there are few images."""
    return max(1, min(slots, images // (SHARES * workers)))
