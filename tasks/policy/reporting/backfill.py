"""Windows of a range that were missed, and those that must not be filled in."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tasks.policy.records.base import Window


@dataclass(frozen=True, slots=True)
class Backfill:
    """The windows of a range: those to fill in, those that were done, those that the champion learned from.

    `empty`: those that were tried and have no rows (yet); a later back-fill tries them again.
    """

    missing: tuple[Window, ...]
    done: tuple[Window, ...]
    learned: tuple[Window, ...]
    empty: tuple[Window, ...] = ()

    @property
    def headline(self) -> str:
        return (
            f"{len(self.missing)} windows to fill in, {len(self.done)} done before, "
            f"{len(self.learned)} left out because the champion learned from them"
            f"{f', {len(self.empty)} without rows' if self.empty else ''}"
        )

    def without_rows(self, empty: Sequence[Window]) -> "Backfill":
        """The same, where these turned out to have no rows."""
        filled = tuple(window for window in self.missing if window not in empty)
        return replace(self, missing=filled, empty=tuple(empty))


def divide_windows(
    windows: Sequence[Window], scored: Collection[Window], judged: Collection[Window], trained_until: datetime
) -> Backfill:
    """A window is done once it was scored and judged; one that begins before `trained_until` was learned from."""
    done = tuple(window for window in windows if window in judged and window in scored)
    learned = tuple(window for window in windows if window not in done and window.start < trained_until)
    return Backfill(tuple(window for window in windows if window not in {*done, *learned}), done, learned)
