"""`perennial`, the recommended policy (first form: generalised debt; being developed)."""

from dataclasses import dataclass, field

import numpy as np

from tasks.policy.simulation import Service


@dataclass
class PerennialPolicy:
    """Switch once what an option would have saved, accumulated and floored at 0, reaches what the switch costs."""

    alpha: float
    share: float
    debts: dict[int, float] = field(default_factory=dict)
    fresh: float = 0.0

    def act(self, service: Service) -> None:
        losses, now, champion = service.loss, service.now, service.champion
        if service.train_probe() and champion != now - 1:
            probe = service.probe
            self.fresh = max(0.0, self.fresh + float(np.nan_to_num(probe[champion, now] - probe[now - 1, now])))
        for other in service.candidates:
            if other not in (champion, now):
                gain = float(np.nan_to_num(losses[champion, now] - losses[other, now]))
                self.debts[other] = max(0.0, self.debts.get(other, 0.0) + gain)
        best = max(self.debts, key=lambda other: self.debts[other], default=None)
        returned = best is not None and self.debts[best] >= 1.5 * (1 - self.share) * self.alpha
        if self.fresh >= self.alpha and (best is None or not returned or self.fresh >= self.debts[best]):
            service.retrain()
        elif returned and best is not None:
            service.deploy(best)
        else:
            return
        self.debts, self.fresh = {}, 0.0
