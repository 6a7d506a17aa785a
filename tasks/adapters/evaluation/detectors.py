"""River's change detectors as baselines in the backtest: ADWIN and Page-Hinkley on the loss of each window.

The detectors are designed for streams of rows. Windows are few, so their default warm-up periods are shortened. The
losses lie in [0, 2], and only a rise of the loss counts as an alarm: an improvement is no reason to retrain.
Sources: Bifet and Gavaldà 2007 (ADWIN), Page 1954 (the cumulative test).
"""

from collections.abc import Callable

from river.drift import ADWIN, PageHinkley

from tasks.policy.backtest.baselines import StreamDetector
from tasks.policy.backtest.simulation import PolicyFactory


def _adwin() -> Callable[[float], bool]:
    detector = ADWIN(delta=0.05, clock=1, min_window_length=2, grace_period=4)

    def alarms(loss: float) -> bool:
        before = detector.estimation
        detector.update(loss)
        return bool(detector.drift_detected and detector.estimation > before)

    return alarms


def _page_hinkley() -> Callable[[float], bool]:
    detector = PageHinkley(min_instances=2, delta=0.005, threshold=0.1, alpha=1.0, mode="up")

    def alarms(loss: float) -> bool:
        detector.update(loss)
        return bool(detector.drift_detected)

    return alarms


DETECTORS: dict[str, PolicyFactory] = {
    "adwin": lambda alpha, share: StreamDetector(_adwin),
    "page_hinkley": lambda alpha, share: StreamDetector(_page_hinkley),
}
