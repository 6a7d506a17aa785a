"""Simulate a policy on a recorded history with only the information it would have had; look-ahead is impossible.

A `PerformanceMatrix` holds the loss of every candidate on every later window. A policy never accesses it. It acts
through `SimulatedService`, which copies cells as time passes: after window j the columns up to j, for candidates and probes from
history and for those that the policy has trained and paid for. Cells that are not copied cannot be read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.policy.records.errors import MatrixError
from tasks.policy.statistics.metrics import Floats

SQUARE_KEYS = ("loss", "probe", "ks", "ev")
WINDOW_KEYS = ("secs", "rows")


@dataclass(frozen=True)
class PerformanceMatrix:
    """`loss[t, j]`: mean loss on window j of the candidate trained after window t; NaN where j ≤ t or never trained.

    `history` windows are known from the start; service begins at window `history` with candidate `history` - 1.
    `probe` is the same for cheap candidates; `ks` and `ev` are drift shares between t's training rows and window j.
    With late labels, a window's losses are known `lag` windows later. Rows then identify the data, not the time: the
    candidate of row t is trained when window t's losses are known, so it first serves window t + lag + 1, and service
    begins at window `history` + `lag`. A probe learns from t's rows once their labels have arrived, as in `monitor`.
    Raises MatrixError for wrong shapes or values.
    """

    loss: Floats
    history: int
    probe: Floats | None = None
    ks: Floats | None = None
    ev: Floats | None = None
    secs: Floats | None = None
    rows: Floats | None = None
    lag: int = 0

    def __post_init__(self) -> None:
        shape = self.loss.shape
        if self.loss.ndim != 2 or shape[0] != shape[1] or shape[0] < 3:
            raise MatrixError(f"loss has shape {shape}, expected a square [W, W] of at least 3 windows")
        if not 1 <= self.history < shape[0]:
            raise MatrixError(f"H is {self.history}, expected at least 1 and below W = {shape[0]}")
        if not 0 <= self.lag < shape[0] - self.history:
            raise MatrixError(f"lag is {self.lag}, expected at least 0 and below W - H = {shape[0] - self.history}")
        for key in SQUARE_KEYS + WINDOW_KEYS:
            part, expected = getattr(self, key), shape if key in SQUARE_KEYS else shape[:1]
            if part is not None and part.shape != expected:
                raise MatrixError(f"{key} has shape {part.shape}, expected {expected} as loss has")
            if part is not None and key in ("loss", "probe"):
                early = np.tri(shape[0], k=self.lag if key == "loss" else 0, dtype=bool) & np.isfinite(part)
                object.__setattr__(self, key, np.where(early | np.isinf(part), np.nan, part))
        first = self.loss[self.history - 1, self.first_served :]
        if not np.isfinite(first).any():
            raise MatrixError(f"loss[{self.history - 1}] is empty, expected the candidate that service starts with")

    @property
    def windows(self) -> int:
        return len(self.loss)

    @property
    def first_served(self) -> int:
        return self.history + self.lag

    @property
    def served(self) -> int:
        """T, the number of served windows."""
        return self.windows - self.first_served

    def is_trainable(self, window: int) -> bool:
        """Whether a candidate was recorded after `window`; a gap is a row without values above rows with some."""
        return bool(np.isfinite(self.loss[window]).any() or not np.isfinite(self.loss[window + 1 :]).any())


def read_matrix(stored: Mapping[str, NDArray[np.generic]], source: str) -> PerformanceMatrix:
    """Build a matrix from the arrays of an npz. Raises MatrixError with `source`, what was found and expected."""
    missing = [key for key in ("loss", "H") if key not in stored]
    if missing:
        raise MatrixError(f"{source}: {', '.join(missing)} is missing, found {', '.join(sorted(stored)) or 'nothing'}")
    try:
        history = np.asarray(stored["H"]).astype(float)
        lag = np.asarray(stored.get("lag", 0)).astype(float)
        parts = {k: np.array(stored[k], dtype=float) for k in SQUARE_KEYS + WINDOW_KEYS if k in stored}
    except (TypeError, ValueError) as error:
        raise MatrixError(
            f"{source}: contains a value that is not a number ({error}), expected numeric arrays"
        ) from error
    for key, value in (("H", history), ("lag", lag)):
        if value.size != 1 or not np.isfinite(value).all() or float(value.ravel()[0]) % 1:
            raise MatrixError(f"{source}: {key} is {stored[key]}, expected one whole number of windows")
    try:
        return PerformanceMatrix(history=int(history.ravel()[0]), lag=int(lag.ravel()[0]), **parts)
    except MatrixError as error:
        raise MatrixError(f"{source}: {error}") from None


class SimulatedService:
    """One run of one policy: its information after the current window, and the actions it may take.

    The current window is the latest with known losses; with late labels, later windows have already been served.
    `loss`, `probe`, `ks`, `ev` are [now + 1, now + 1] copies with NaN in every cell that the policy may not know.
    """

    def __init__(self, matrix: PerformanceMatrix) -> None:
        self._matrix = matrix
        self._known = {key: np.full_like(matrix.loss, np.nan) for key in SQUARE_KEYS}
        self._candidates, self._probed = list(range(matrix.history)), list(range(matrix.history))
        self.history, self.now, self.champion = matrix.history, matrix.history - 1, matrix.history - 1
        self.trainings: list[int] = []
        self.probes: list[int] = []
        self.deployments = 0
        self.serving: list[int] = []
        for key in SQUARE_KEYS:
            part = getattr(matrix, key)
            if part is not None:
                self._known[key][: self.history, : self.history] = part[: self.history, : self.history]

    def _part(self, key: str) -> Floats:
        return self._known[key][: self.now + 1, : self.now + 1].copy()

    @property
    def loss(self) -> Floats:
        return self._part("loss")

    @property
    def probe(self) -> Floats:
        return self._part("probe")

    @property
    def ks(self) -> Floats:
        return self._part("ks")

    @property
    def ev(self) -> Floats:
        return self._part("ev")

    @property
    def candidates(self) -> tuple[int, ...]:
        """Existing candidates: those from history and those trained since."""
        return tuple(self._candidates)

    def train(self) -> bool:
        """Train a full candidate after the current window, once; False if the record has none."""
        if self.now in self._candidates:
            return True
        if not self._matrix.is_trainable(self.now):
            return False
        self._candidates.append(self.now)
        self.trainings.append(self.now)
        return True

    def train_probe(self) -> bool:
        """Train a cheap candidate after the current window, once; False if the record has none."""
        if self._matrix.probe is not None and self.now not in self._probed:
            self._probed.append(self.now)
            self.probes.append(self.now)
        return self._matrix.probe is not None

    def deploy(self, candidate: int) -> None:
        """Serve with an existing candidate from the next window on. Raises KeyError if it does not exist."""
        if candidate not in self._candidates:
            raise KeyError(f"candidate {candidate} does not exist after window {self.now}; train it first")
        self.deployments += candidate != self.champion
        self.champion = candidate

    def retrain(self) -> bool:
        """Train and deploy at once, as every baseline does; False if the record has no such candidate."""
        if self.train():
            self.deploy(self.now)
            return True
        return False

    def _serve_next(self) -> None:
        self.now += 1
        self.serving.append(self.champion)
        for key, rows in (
            ("loss", self._candidates),
            ("probe", self._probed),
            ("ks", self._candidates),
            ("ev", self._candidates),
        ):
            part = getattr(self._matrix, key)
            if part is not None:
                self._known[key][rows, self.now] = part[rows, self.now]


class Policy(Protocol):
    """A policy that acts through `service` after each served window except the last."""

    def act(self, service: SimulatedService) -> None: ...


PolicyFactory = Callable[[float, float], Policy]
"""(α, s) → a policy: the cost of one retrain in window losses, and the share of it that is compute."""


@dataclass(frozen=True)
class Run:
    """The result of one policy. `serving[i]` is the candidate that served the window `first_served` + i."""

    serving: tuple[int, ...]
    trainings: tuple[int, ...]
    probes: tuple[int, ...]
    deployments: int
    mean_loss: float


def simulate(matrix: PerformanceMatrix, policy: Policy) -> Run:
    """Run a policy over the served windows of a matrix; it acts after each one except the last."""
    service = SimulatedService(matrix)
    for window in range(matrix.first_served, matrix.windows):
        service._serve_next()
        if window < matrix.windows - 1:
            policy.act(service)
    served = tuple(service.serving)
    loss = mean_loss(matrix, served)
    return Run(served, tuple(service.trainings), tuple(service.probes), service.deployments, loss)


def mean_loss(matrix: PerformanceMatrix, serving: tuple[int, ...]) -> float:
    """Mean loss over the served windows with a known loss; NaN without any."""
    losses = matrix.loss[list(serving), np.arange(matrix.first_served, matrix.windows)]
    known = losses[np.isfinite(losses)]
    return float(known.mean()) if known.size else float("nan")


def cost(run: Run, alpha: float, share: float, served: int) -> float:
    """C_α = mean loss + (α/T) · ((1-s)·deployments + s·trainings + 0.1·s·probes)."""
    spent = (1 - share) * run.deployments + share * len(run.trainings) + 0.1 * share * len(run.probes)
    return run.mean_loss + alpha / served * spent
