"""The recommended policy's sentences on each side of its limits, with figures by hand."""

from dataclasses import replace

from tasks.policy.perennial.policy import Action, Weighed
from tasks.policy.perennial.reasons import Terms, explain

WEIGHED = Weighed(0.014, 0.072, 3.0, 0.9, 0.6, 12, established=False, tried=True, may_train=False)
TERMS = Terms("log_loss", alpha=0.072, scale=0.05, retrain_usd=30.0, origin="30.00 USD")
SINCE = "2013-05-01"


def why(weighed: Weighed, retrain: bool = False, earlier: str | None = None, terms: Terms = TERMS) -> str:
    return explain(Action(20, retrain, None, False, weighed), terms, SINCE, earlier)[0]


def test_small_lead_is_compared_with_cost() -> None:
    """0.014 · 0.05 and 0.072 · 0.05 of the metric; 0.014 / 0.072 · 30 USD."""
    assert why(WEIGHED) == (
        "fresh models are not ahead by enough to pay for a retrain "
        "(lead 0.0007, needed 0.0036 log_loss; worth 5.83 USD, costs 30.00 USD)"
    )
    unpriced = why(WEIGHED, terms=replace(TERMS, retrain_usd=None))
    assert unpriced.endswith("(lead 0.0007, needed 0.0036 log_loss)")


def test_paying_lead_retrains_or_returns() -> None:
    ahead = replace(WEIGHED, saved=0.1, established=True, may_train=True)
    assert why(ahead, retrain=True).startswith(
        "a fresh model is ahead by enough to pay for a retrain (lead 0.005, needed"
    )
    assert why(replace(ahead, price=0.0576), earlier="12").endswith("worth 41.67 USD, costs 24.00 USD)")
    assert why(ahead, earlier="12").startswith("version 12 is ahead again by enough to pay for the switch")


def test_uncertain_lead_names_missing_evidence() -> None:
    """√(0.9² + 0.6²) = 1.08 σ of the 3.5 σ needed after a retrain; the lead's own 0.9 σ of 1 σ before."""
    ahead = replace(WEIGHED, saved=0.1)
    assert why(ahead).endswith("but this may still be chance (evidence 1.1 σ, needed 3.5 σ)")
    assert why(replace(ahead, tried=False)).endswith("(evidence 0.9 σ, needed 1 σ)")
    assert why(replace(ahead, saved=None)) == "there is no forecast for a fresh model yet"


def test_details_state_evidence_of_change() -> None:
    action = Action(20, False, None, False, WEIGHED)
    details = explain(action, TERMS, SINCE)[1]
    assert details[0] == "no sign yet that the relationship is changing (evidence 1.1 σ, needed 3.5 σ)"
    assert "since 2013-05-01 (0.9 σ)" in details[1] and details[3].endswith("0.0036 log_loss of one window (30.00 USD)")
    strong = replace(action, weighed=replace(WEIGHED, lead_sigmas=3.6, established=True))
    assert explain(strong, TERMS, SINCE)[1][0].startswith("the relationship is changing (evidence 3.6 σ")
    before = replace(action, weighed=replace(WEIGHED, established=True))
    assert explain(before, TERMS, SINCE)[1][0].startswith("the relationship has changed before")
