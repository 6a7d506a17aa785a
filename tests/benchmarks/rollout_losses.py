"""Row losses of two real models on the same flights, and rollouts that are resampled from them.

The champion is trained on the flights of January to April, the challenger on those of March to June, and both predict
July to September. The challenger's losses are then shifted by a constant, so that the true gain is known.
"""

from dataclasses import dataclass, replace

import numpy as np
import xgboost

from tasks.policy.comparison.arms import ServedArm
from tasks.policy.statistics.resampling import SHRINKAGE
from tests.benchmarks import streams

Floats = np.ndarray
FITTED = ((1, 120), (61, 181))
JUDGED = (182, 273)
DAY = streams.FLIGHT_FEATURES.index("day_of_year")


@dataclass(frozen=True)
class ModelLosses:
    """Losses (n,) of both models on the same rows, each row's day, and what a served answer makes of its label.

    `served_challenger` are the challenger's losses on the rows that it would have answered itself.
    """

    name: str
    champion: Floats
    challenger: Floats
    served_challenger: Floats
    day: Floats

    @property
    def gains(self) -> Floats:
        return self.champion - self.challenger

    def equal(self) -> "ModelLosses":
        """The same losses, shifted so that the challenger, judged by what it serves, is exactly as good."""
        shift = self.champion.mean() - self.served_challenger.mean()
        return replace(self, challenger=self.challenger + shift, served_challenger=self.served_challenger + shift)


@dataclass(frozen=True)
class Rollouts:
    """The evidence of many rollouts at each look; gain, standard error and its shape are (rollouts, looks)."""

    gain: Floats
    error: Floats
    degrees: Floats
    skewness: Floats
    units: Floats
    """Clusters (looks,) in the smaller arm."""
    information: Floats
    """Effective units (looks,)."""
    exposed: Floats
    """Units (looks,) that the challenger has answered by then."""
    interval_gain: Floats
    """Gain on the rows since the look before (rollouts, looks)."""


def losses_of(stream: streams.Stream, feedback: bool = False) -> ModelLosses:
    """Fit both models and return their losses. With `feedback` a flight expected late is helped: half of those that
    would be late arrive on time, whichever model served the answer.
    """
    day = stream.features[:, DAY]
    features = np.delete(stream.features, DAY, axis=1)
    judged = (day >= JUDGED[0]) & (day <= JUDGED[1])
    old, new = (_predictions(stream, features, (day >= a) & (day <= b), features[judged]) for a, b in FITTED)
    y_true = stream.target[judged]
    helped = feedback & (np.random.default_rng(5).random(len(y_true)) < 0.5)
    by_champion, by_challenger = (np.where(helped & (p >= 0.3), 0.0, y_true) for p in (old, new))
    return ModelLosses(
        f"{stream.name}{' with feedback' if feedback else ''}",
        _loss(stream, by_champion, old),
        _loss(stream, by_champion, new),
        _loss(stream, by_challenger, new),
        day[judged],
    )


def _predictions(stream: streams.Stream, features: Floats, rows: Floats, asked: Floats) -> Floats:
    objective = "binary:logistic" if stream.scale is None else "reg:absoluteerror"
    settings = {"tree_method": "hist", "max_depth": 6, "eta": 0.2, "nthread": 1, "seed": 7, "objective": objective}
    fit = xgboost.QuantileDMatrix(features[rows], stream.target[rows], nthread=1)
    return np.asarray(xgboost.train(settings, fit, 40).inplace_predict(asked), float)


def _loss(stream: streams.Stream, y_true: Floats, y_pred: Floats) -> Floats:
    """Log loss of a classification, absolute error of a regression."""
    if stream.scale is not None:
        return np.abs(y_true - y_pred)
    return -np.log(np.clip(np.where(y_true == 1, y_pred, 1 - y_pred), 1e-15, 1))


def shadow_of_rows(losses: ModelLosses, rollouts: int, looks: int, per_look: int, seed: int) -> Rollouts:
    """Pairs of rows drawn at random; each row is a unit. Equal to `paired_evidence`."""
    random, gains = np.random.default_rng(seed), losses.gains
    sums = np.empty((3, rollouts, looks))
    for look in range(looks):
        drawn = gains[random.integers(0, len(gains), (rollouts, per_look))]
        power = np.ones_like(drawn)
        for moment in range(3):
            power *= drawn
            sums[moment, :, look] = power.sum(axis=1)
    units = per_look * np.arange(1, looks + 1)
    gain, squares, cubes = sums.cumsum(axis=2) / units
    variance = squares - gain**2
    skewness = (cubes - 3 * gain * squares + 2 * gain**3) / variance**1.5 / np.sqrt(units) * _shrunk(units)
    degrees = np.broadcast_to(units - 1.0, gain.shape)
    error = np.sqrt(variance / (units - 1))
    return Rollouts(gain, error, degrees, skewness, units, units.astype(float), np.zeros(looks), sums[0] / per_look)


def shadow_of_days(losses: ModelLosses, rollouts: int, looks: int, per_look: int, seed: int) -> Rollouts:
    """Pairs of whole days drawn at random, `per_look` days each; a day is a cluster. Equal to `paired_evidence`."""
    _, code = np.unique(losses.day, return_inverse=True)
    rows, sums = np.bincount(code).astype(float), np.bincount(code, losses.gains)
    drawn = np.random.default_rng(seed).integers(0, len(rows), (rollouts, looks * per_look))
    days = per_look * np.arange(1, looks + 1)
    total, part = (values[drawn].cumsum(axis=1)[:, days - 1] for values in (rows, sums))
    gain = part / total

    def crossed(of_sums: int, of_rows: int) -> Floats:
        return (sums[drawn] ** of_sums * rows[drawn] ** of_rows).cumsum(axis=1)[:, days - 1]

    squares = crossed(2, 0) - 2 * gain * crossed(1, 1) + gain**2 * crossed(0, 2)
    cubes = crossed(3, 0) - 3 * gain * crossed(2, 1) + 3 * gain**2 * crossed(1, 2) - gain**3 * crossed(0, 3)
    error = np.sqrt(days / (days - 1) * squares) / total
    each = np.diff(part, axis=1, prepend=0) / np.diff(total, axis=1, prepend=0)
    degrees = np.broadcast_to(days - 1.0, gain.shape)
    skewness = cubes / squares**1.5 * _shrunk(days)
    return Rollouts(gain, error, degrees, skewness, days, days.astype(float), np.zeros(looks), each)


STRETCHES = 14
"""Parts of the judged days, in order, from which the windows of a canary draw in turn."""


def canary_of_rows(losses: ModelLosses, rollouts: int, shares: Floats, per_look: int, seed: int) -> Rollouts:
    """Served arms whose share grows while the level of the losses drifts through the year. Equal to `served_evidence`.

    Each window draws from the next stretch of days, in which the challenger is shifted to be as good as the champion.
    """
    random, looks = np.random.default_rng(seed), len(shares)
    sizes = np.stack([per_look - np.round(shares * per_look), np.round(shares * per_look)], axis=1)
    moments = np.empty((3, rollouts, looks, 2))
    stretches = np.array_split(np.argsort(losses.day, kind="stable"), STRETCHES)
    for look in range(looks):
        rows = stretches[look % STRETCHES]
        arms = [losses.champion[rows], losses.served_challenger[rows]]
        arms[1] = arms[1] - arms[1].mean() + arms[0].mean()
        for side, values in enumerate(arms):
            for block in np.array_split(np.arange(rollouts), max(1, rollouts // 500)):
                drawn = values[random.integers(0, len(values), (len(block), int(sizes[look, side])))]
                moments[:, block, look, side] = _moments(drawn)
    return _stratified(moments, sizes)


def _shrunk(clusters: Floats) -> Floats:
    return clusters / (clusters + SHRINKAGE)


def _moments(rows: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, and sums of squares and cubes around it, of each line of `rows`."""
    mean = rows.mean(axis=1)
    apart = rows - mean[:, None]
    squares = apart * apart
    return mean, squares.sum(axis=1), np.einsum("ij,ij->i", squares, apart)


def _stratified(moments: Floats, sizes: Floats) -> Rollouts:
    """Evidence at each look from the moments (3, rollouts, looks, 2) of each window and arm."""
    (means, squares, cubes), looks = moments, len(sizes)
    gain, error, degrees, skewness = np.empty((4, *means.shape[:2]))
    worth, totals = sizes.prod(axis=1) / sizes.sum(axis=1), sizes.cumsum(axis=0)
    apart = means[:, :, 0] - means[:, :, 1]
    sign = np.array([1.0, -1.0])  # a loss of the champion adds to the gain, one of the challenger takes from it
    for look in range(looks):
        share = (worth[: look + 1] / worth[: look + 1].sum())[:, None]
        n, at = sizes[: look + 1], slice(0, look + 1)
        gain[:, look] = apart[:, at] @ share[:, 0]
        weight = sign * share / np.sqrt(n * (n - 1))
        within = squares[:, at] * weight**2
        spread = (share[:, 0] * (apart[:, at] - gain[:, [look]]) / n.sum(axis=1))[:, :, None]
        total = (within + n * spread**2).sum(axis=(1, 2))
        third = (cubes[:, at] * weight**3 + 3 * within * spread + n * spread**3).sum(axis=(1, 2))
        skewness[:, look] = third / total**1.5 * _shrunk(totals[look].sum())
        count = totals[look].sum()
        error[:, look] = np.sqrt(count / (count - 1) * total)
        arms = within.sum(axis=1) * totals[look] / (totals[look] - 1)
        degrees[:, look] = arms.sum(axis=1) ** 2 / (arms**2 / (totals[look] - look - 1)).sum(axis=1)
    return Rollouts(gain, error, degrees, skewness, totals.min(axis=1), 2 * worth.cumsum(), totals[:, 1], apart)


def drawn_arms(losses: ModelLosses, sizes: tuple[tuple[int, int], ...], seed: int) -> tuple[ServedArm, ServedArm]:
    """A few windows of both arms as the flow sees them; each row is a unit."""
    random = np.random.default_rng(seed)
    arms = []
    for side, values in enumerate((losses.champion, losses.served_challenger)):
        count = [size[side] for size in sizes]
        rows = random.integers(0, len(values), sum(count))
        window, unit = np.repeat(np.arange(len(sizes)), count), np.arange(len(rows)) + 10**6 * side
        arms.append(ServedArm(np.zeros(len(rows)), values[rows], unit, window))
    return arms[0], arms[1]


def stratified_arms(champion: ServedArm, challenger: ServedArm, sizes: tuple[tuple[int, int], ...]) -> Rollouts:
    """The simulation's evidence of one rollout from these rows."""
    moments = np.empty((3, 1, len(sizes), 2))
    for side, arm in enumerate((champion, challenger)):
        for look in range(len(sizes)):
            moments[:, :, look, side] = _moments(arm.y_pred[arm.strata == look][None])
    return _stratified(moments, np.array(sizes, float))
