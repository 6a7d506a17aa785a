"""Which windows of a range were missed, and which must not be filled in."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.records import Window


@dataclass(frozen=True, slots=True)
class Backfill:
    """The windows of a range: those to fill in, those that were done, those that the champion learned from."""

    missing: tuple[Window, ...]
    done: tuple[Window, ...]
    learned: tuple[Window, ...]

    @property
    def headline(self) -> str:
        return (
            f"{len(self.missing)} windows to fill in, {len(self.done)} done before, "
            f"{len(self.learned)} left out because the champion learned from them"
        )


def divide_windows(
    windows: Sequence[Window], scored: Collection[Window], judged: Collection[Window], trained_until: datetime
) -> Backfill:
    """A window is done once it was scored and judged; one that begins before `trained_until` was learned from."""
    done = tuple(window for window in windows if window in judged and window in scored)
    learned = tuple(window for window in windows if window not in done and window.start < trained_until)
    return Backfill(tuple(window for window in windows if window not in {*done, *learned}), done, learned)
