"""The three stretches of a device pass."""

from dualsmooth.benchmarks import device_ceilings, device_checks, device_cifar, device_table
from dualsmooth.benchmarks.device_items import Item, Place

STRETCHES = (1, 2, 3)
SLOW = ("kernel times", "tests of the kernels", "sanitizer")
"""What comes last in the first stretch; ``--only`` runs it in a command of its own."""


def items_of(stretch: int, place: Place) -> list[Item]:
    """Items in the order in which they run: what everything else rests on comes first.

    Raises
    ------
    ValueError
        If the number is not 1, 2 or 3.
    """
    return _only(_all(stretch, place), place.options.get("only", ""))


def _only(items: list[Item], text: str) -> list[Item]:
    """Items whose names hold the text, and everything they need or use."""
    wanted = {item.name for item in items if text in item.name}
    for item in reversed(items):  # an item needs earlier ones only
        if item.name in wanted:
            wanted |= {*item.needs, *item.uses}
    return [item for item in items if item.name in wanted]


def _all(stretch: int, place: Place) -> list[Item]:
    if stretch == 1:
        checks = device_checks.items(place)
        slow = [item for item in checks if item.name.startswith(SLOW)]
        first = [item for item in checks if item not in slow]
        return first + device_ceilings.items(place) + slow
    if stretch == 2:
        return device_table.items(place)
    if stretch == 3:
        return device_cifar.items(place)
    raise ValueError(f"stretch must be 1, 2 or 3; received {stretch}")
