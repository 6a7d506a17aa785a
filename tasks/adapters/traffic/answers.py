"""Judge if the answers to probes follow a traffic split: who answered, and how often.

Where each request is routed at random, the number of the challenger's answers is binomial. A consistent hash places points
of both versions on a ring at random, so the challenger's part of the ring differs from its share of the points: it is Beta
distributed (spacings of uniform points; Pyke 1965), and the number of answers beta-binomial.
"""

from collections.abc import Collection

from scipy.stats import betabinom, binom

from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import TrafficSplit

FALSE_ALARM = 1e-6
"""Probability that a split that is followed is reported as not followed."""


def answers_expected(probes: int, share: float, points: int | None = None) -> tuple[int, int]:
    """Return the lowest and highest number of probes that the challenger may answer at this share.

    `points` is the number of points on the ring of a consistent hash; None for routing at random.

    >>> answers_expected(400, 0.1)
    (14, 72)
    >>> answers_expected(400, 0.0)
    (0, 0)
    """
    if share <= 0:
        return 0, 0
    kind = binom(probes, share) if points is None else betabinom(probes, share * points, (1 - share) * points)
    return int(kind.ppf(FALSE_ALARM / 2)), int(kind.isf(FALSE_ALARM / 2))


def check_share(where: str, answered: int, probes: int, share: float, points: int | None = None) -> None:
    """Raise TrafficError if the challenger answered fewer or more probes than its share explains."""
    low, high = answers_expected(probes, share, points)
    if not low <= answered <= high:
        expected = f"between {low} and {high}" if high else "none"
        raise TrafficError(
            f"{where}: the challenger answered {answered} of {probes} probes, expected {expected} at a share of {share:.4g}; "
            "look for another route to the challenger, and for another process that changes the weights"
        )


def count_challenger(where: str, versions: Collection[str], split: TrafficSplit) -> int:
    """Return how many answers came from the challenger's version.

    Raises TrafficError for a version that is in neither role, and for two versions where the split names none.
    """
    known = {version for version in (split.champion, split.challenger) if version is not None}
    unknown = sorted(set(versions) - known)
    if split.champion is None and split.challenger is None:
        unknown = unknown[1:]  # without a rollout the alias decides which version answers, but only one does
    elif split.champion is None:
        unknown = []
    if unknown:
        raise TrafficError(
            f"{where}: version {unknown[0]!r} answered a probe, expected {' or '.join(sorted(known)) or 'one version'}; "
            "reload the servers whose version is out of date"
        )
    if split.challenger is None:
        return 0
    return sum(version == split.challenger for version in versions)
