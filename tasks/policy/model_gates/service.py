"""Judge what a packaged model did in a clean process: load, answer as it did at training, refuse, in time and memory.

Latency and memory are compared with the champion's in the same run, whose calls alternate with the challenger's, so that a
busy machine slows both. The 95th percentile is that of the quickest of several rounds, because interruptions only add to it.
"""

from dataclasses import dataclass

import numpy as np

from tasks.policy.evidence.validation import GateMeasure, GateName

LATENCY_ALLOWANCE_MS = 5.0
"""Milliseconds above the champion's that always pass: more than a scikit-learn pipeline takes above a booster's one."""
MEMORY_ALLOWANCE_MB = 50.0
"""Megabytes above the champion's that always pass: allocators round more than a small model takes."""
SAME_ANSWER = 1e-5
"""Relative difference up to which two answers are the same; float32 sums differ by less between processors."""
NO_CHAMPION = "there is no champion to compare with"
"""Without the time and memory, which differ between runs: a repeated adoption gives the same reasons."""
SERVICE: tuple[GateName, ...] = ("loading", "answers", "malformed input", "latency", "memory")


@dataclass(frozen=True, slots=True)
class ServiceTrial:
    """What one version did in a clean process.

    `fault` says why it does not load or answer, `deviation` is the largest relative difference from the known answers,
    `answered` the malformed inputs that it did not refuse. `seconds` are those of single rows, by round, `memory_mb` the peak
    of loading and answering. `apart` says why time and memory are not comparable.
    """

    version: str
    fault: str | None = None
    deviation: float = 0.0
    compared_rows: int = 0
    compared_with: str = ""
    answered: tuple[str, ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()
    memory_mb: float = 0.0
    apart: str | None = None

    @property
    def p95_ms(self) -> float:
        """95th percentile of the time for one row, of the quickest round."""
        return 1000 * min(float(np.quantile(each, 0.95)) for each in self.seconds)


def judge_service(challenger: ServiceTrial, champion: ServiceTrial | None) -> tuple[GateMeasure, ...]:
    """The measures of the challenger's service; a champion that could not be measured fails what is relative to it."""
    if challenger.fault:
        unmeasured = "not measured, because the model does not load and answer in a clean process"
        faults: dict[GateName, str] = dict.fromkeys(SERVICE, unmeasured) | {"loading": challenger.fault}
        return tuple(GateMeasure(name, fault=fault) for name, fault in faults.items())
    return (
        GateMeasure("loading", "loads in a clean process, without running code", value=0.0),
        _answers(challenger),
        _malformed(challenger),
        _latency(challenger, champion),
        _memory(challenger, champion),
    )


def not_served(reason: str) -> tuple[GateMeasure, ...]:
    """The same gates for a challenger that is not served from files, and why they do not apply."""
    return tuple(GateMeasure(name, skipped=reason) for name in SERVICE)


def unmeasured(reason: str) -> tuple[GateMeasure, ...]:
    """The same gates if the measurement itself failed: without it nothing shows that the model can serve."""
    return tuple(GateMeasure(name, fault=reason) for name in SERVICE)


def _answers(trial: ServiceTrial) -> GateMeasure:
    subject = f"largest relative difference from {trial.compared_with}"
    fault = None
    if not trial.deviation <= SAME_ANSWER:
        fault = (
            f"version {trial.version} answers otherwise than {trial.compared_with}: relative difference {trial.deviation:.3g} on "
            f"{trial.compared_rows} rows, expected at most {SAME_ANSWER:g}"
        )
    return GateMeasure("answers", subject, value=trial.deviation, rows=trial.compared_rows, fault=fault)


def _malformed(trial: ServiceTrial) -> GateMeasure:
    fault = None
    if trial.answered:
        listed = ", ".join(trial.answered[:3]) + (
            f" and {len(trial.answered) - 3} more" if len(trial.answered) > 3 else ""
        )
        fault = f"version {trial.version} answers malformed rows ({listed}), expected a refusal"
    return GateMeasure(
        "malformed input", "malformed inputs that are answered", value=float(len(trial.answered)), fault=fault
    )


def _latency(challenger: ServiceTrial, champion: ServiceTrial | None) -> GateMeasure:
    subject = "95th percentile of one row, ms"
    if excused := _excused("latency", subject, challenger, champion):
        return excused
    if not challenger.seconds or (champion is not None and not champion.seconds):
        return GateMeasure("latency", subject, fault="no answer was timed")
    new = challenger.p95_ms
    if champion is None:
        return GateMeasure("latency", subject, challenger=new, skipped=NO_CHAMPION)
    old = champion.p95_ms
    return GateMeasure("latency", subject, old, new, new / old, rows=sum(map(len, challenger.seconds)))


def _memory(challenger: ServiceTrial, champion: ServiceTrial | None) -> GateMeasure:
    subject = "peak memory of loading and answering, MB"
    if excused := _excused("memory", subject, challenger, champion):
        return excused
    new = challenger.memory_mb
    if champion is None:
        return GateMeasure("memory", subject, challenger=new, skipped=NO_CHAMPION)
    old = max(1.0, champion.memory_mb)
    return GateMeasure("memory", subject, old, new, new / old)


def _excused(
    gate: GateName, subject: str, challenger: ServiceTrial, champion: ServiceTrial | None
) -> GateMeasure | None:
    """The measure of a gate that does not apply, or that fails because the champion gave no measure."""
    if champion is not None and champion.fault:
        return GateMeasure(gate, subject, fault=f"champion {champion.version} could not be measured ({champion.fault})")
    apart = next((one.apart for one in (challenger, champion) if one is not None and one.apart), None)
    return GateMeasure(gate, subject, skipped=apart) if apart else None
