"""Select the windows of a range that a back-fill has to process, and those that it must not."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tasks.policy.records.base import Window


@dataclass(frozen=True, slots=True)
class Backfill:
    """The windows of a range: missing, done, and those in the champion's training data.

    `empty` are windows that were tried and have no rows (yet); a later back-fill tries them again.
    """

    missing: tuple[Window, ...]
    done: tuple[Window, ...]
    learned: tuple[Window, ...]
    empty: tuple[Window, ...] = ()

    @property
    def headline(self) -> str:
        return (
            f"{len(self.missing)} windows to fill in, {len(self.done)} already done, "
            f"{len(self.learned)} skipped because the champion was trained on them"
            f"{f', {len(self.empty)} without rows' if self.empty else ''}"
        )

    def without_rows(self, empty: Sequence[Window]) -> "Backfill":
        """This back-fill with the given windows moved to `empty`."""
        filled = tuple(window for window in self.missing if window not in empty)
        return replace(self, missing=filled, empty=tuple(empty))


def divide_windows(
    windows: Sequence[Window], scored: Collection[Window], judged: Collection[Window], trained_until: datetime
) -> Backfill:
    """Divide windows: done if scored and judged; else learned if they start before `trained_until`; else missing."""
    done = tuple(window for window in windows if window in judged and window in scored)
    learned = tuple(window for window in windows if window not in done and window.start < trained_until)
    return Backfill(tuple(window for window in windows if window not in {*done, *learned}), done, learned)
