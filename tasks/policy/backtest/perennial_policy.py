"""`perennial` in the back-test: connect the simulated service with the online policy."""

import numpy as np

from tasks.policy.backtest.simulation import SimulatedService
from tasks.policy.perennial.loss_matrix import Observation
from tasks.policy.perennial.policy import ProbeRule
from tasks.policy.statistics.metrics import Floats


class PerennialPolicy:
    """The policy for one run, with a new `ProbeRule` of cost α."""

    def __init__(self, alpha: float, share: float) -> None:
        self.alpha, self.share = alpha, share
        self.rule: ProbeRule | None = None

    def act(self, service: SimulatedService) -> None:
        losses, probes, now = service.loss, service.probe, service.now
        if self.rule is None:
            begun = service.history
            self.rule = ProbeRule(self.alpha, self.share, history_of(losses[:begun, :begun], probes[:begun, :begun]))
        existing = {candidate: float(losses[candidate, now]) for candidate in service.candidates if candidate < now}
        action = self.rule.update(service.champion, existing, dict(enumerate(probes[:, now])))
        if action.deploy == now:
            service.retrain()
        elif action.deploy is not None:
            service.deploy(action.deploy)
        if action.probe:
            service.train_probe()


def history_of(losses: Floats, probes: Floats) -> tuple[Observation, ...]:
    """Observations of the history windows, from blocks [candidate, window]; the candidate before each window serves."""
    return tuple(
        Observation(max(0, window - 1), _known(losses[:, window]), _known(probes[:, window]))
        for window in range(len(losses))
    )


def _known(column: Floats) -> tuple[tuple[int, float], ...]:
    return tuple((int(place), float(column[place])) for place in np.flatnonzero(np.isfinite(column)))
