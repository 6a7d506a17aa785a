"""Explain an action of the recommended policy: one sentence for the model's owner, then the policy's own numbers."""

from dataclasses import dataclass

from tasks.policy.perennial.policy import ESTABLISHED, TRIAL, Action, Weighed
from tasks.policy.statistics.numbers import beside


@dataclass(frozen=True, slots=True)
class Terms:
    """Units for the reader: the metric's units, and USD where the cost of a retrain is known."""

    metric: str
    alpha: float
    """Cost of a retrain, in losses of one window."""
    scale: float = 1.0
    """Units of the metric in one unit of loss."""
    retrain_usd: float | None = None
    origin: str = ""
    """Origin of `alpha`, in words."""


def explain(action: Action, terms: Terms, since: str, earlier: str | None = None) -> tuple[str, tuple[str, ...]]:
    """(reason, details). `since` is the first day of the champion's evidence, `earlier` the version to return to."""
    weighed = action.weighed
    return _why(action, terms, earlier), (
        _describe_change(weighed),
        f"sources of this evidence: fresh models have led the champion since {since} ({weighed.lead_sigmas:.1f} σ), "
        f"neighbouring windows are more alike than distant ones ({weighed.order_sigmas:.1f} σ)",
        f"a forecast lead is assumed to last {weighed.patience:.1f} windows",
        f"a retrain is assumed to cost {terms.alpha * terms.scale:.3g} {terms.metric} of one window ({terms.origin})",
    )


def _why(action: Action, terms: Terms, earlier: str | None) -> str:
    weighed = action.weighed
    if weighed.saved is None:
        return "there is no forecast for a fresh model yet"
    lead = _against_price(weighed.saved, weighed.price, terms)
    if earlier:
        return f"version {earlier} is ahead again by enough to pay for the switch ({lead})"
    if action.retrain:
        return f"a fresh model is ahead by enough to pay for a retrain ({lead})"
    if weighed.saved <= weighed.price:
        return f"fresh models are not ahead by enough to pay for a retrain ({lead})"
    shown, needed = (weighed.change_sigmas, ESTABLISHED) if weighed.tried else (weighed.lead_sigmas, TRIAL)
    return (
        f"fresh models seem ahead by enough to pay for a retrain ({lead}), but this may still be chance "
        f"(evidence {beside(shown, needed, 1, 'f')} σ, needed {needed:g} σ)"
    )


def _against_price(saved: float, price: float, terms: Terms) -> str:
    """`lead 0.0007, needed 0.0036 log loss`, and the same in money if that is known."""
    lead, needed = saved * terms.scale, price * terms.scale
    text = f"lead {beside(lead, needed, 2)}, needed {needed:.2g} {terms.metric}"
    if terms.retrain_usd is None:
        return text
    usd = terms.retrain_usd / terms.alpha
    return f"{text}; worth {beside(saved * usd, price * usd, 2, 'f')} USD, costs {price * usd:,.2f} USD"


def _describe_change(weighed: Weighed) -> str:
    shown = f"(evidence {beside(weighed.change_sigmas, ESTABLISHED, 1, 'f')} σ, needed {ESTABLISHED:g} σ)"
    if weighed.change_sigmas >= ESTABLISHED:
        return f"the relationship is changing {shown}"
    if weighed.established:
        return f"the relationship has changed before; no sign of it in the latest windows {shown}"
    return f"no sign yet that the relationship is changing {shown}"
