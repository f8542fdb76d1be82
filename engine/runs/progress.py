"""What is seen of a run while it certifies; in a terminal two lines.

With everything on one it would be longer than 80 columns.
"""

from collections.abc import Callable
from time import perf_counter

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.runs.summary import share_interval
from dualsmooth.engine.terminal.progress import live, progress_bar


class Progress:
    """Images and votes per second, share certified so far with its interval, time left.

    ``done`` images were certified before; ``occupancy`` returns the share of rows with a sample.
    """

    def __init__(
        self,
        name: str,
        images: int,
        done: int,
        occupancy: Callable[[], float],
        *,
        show: bool = True,
    ) -> None:
        self._occupancy, self._start = occupancy, perf_counter()
        self._seen = self._votes = self._certified = 0
        self._bar = progress_bar(show=show, total=images, initial=done, unit="img", desc=name)
        below = show and live()
        self._line = progress_bar(show=below, total=images, bar_format="{desc}", position=1)

    def seen(self, certificate: Certificate) -> None:
        """Take a certificate into rates and shares."""
        self._seen += 1
        self._votes += certificate.draws
        # Without labels every certified image counts.
        unknown = certificate.label is None and certificate.predicted is not None
        self._certified += certificate.correct or unknown
        if self._bar.disable:
            return
        text = self.text(perf_counter() - self._start)
        if self._line.disable:
            self._bar.set_postfix_str(text, refresh=False)
        else:
            self._line.set_description_str(text, refresh=False)

    def update(self, count: int = 1) -> None:
        """Move the bar by certificates that are on disk."""
        for line in (self._bar, self._line):
            line.update(count)

    def text(self, seconds: float) -> str:
        """What stands below the bar: votes per second, batches, certified share."""
        low, high = share_interval(self._certified, self._seen)
        share = self._certified / max(1, self._seen)
        return (
            f"{self._votes / max(seconds, 1e-9):,.0f} votes/s, batches {self._occupancy():.0%} "
            f"full, certified {share:.0%} [{low:.0%}, {high:.0%}]"
        )

    def close(self) -> None:
        """Leave the last state on the screen."""
        for line in (self._bar, self._line):
            line.close()
