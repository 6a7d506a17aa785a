"""Three tables as companies have them, for `perennial new`, which was not tuned to them: their makers share no code with it.

Each has its own shape: weekly snapshots of customers whose label has a time of its own, an hourly demand without an id, and
support tickets with free text, e-mail addresses and a class that is set when the ticket is closed.
"""

import numpy as np
import pandas as pd

NAMES = ("ada", "grace", "alan", "edsger", "barbara", "donald", "frances", "tony", "leslie", "niklaus", "john", "radia")
THINGS = ("invoice", "router", "password", "delivery", "refund", "battery", "screen", "contract", "update", "account")
VERBS = (
    "does not work after the",
    "is missing since our",
    "was charged twice for the",
    "needs a new",
    "cannot be reached from my",
)


def subscriptions(weeks: int = 80, customers: int = 1250, seed: int = 11) -> pd.DataFrame:
    """Weekly rows of customers. Whether one cancelled is known 10 to 25 days later, at `outcome_at`; until then it is null."""
    random = np.random.default_rng(seed)
    first = pd.Timestamp("2024-03-04", tz="UTC")
    number, week = np.meshgrid(np.arange(customers), np.arange(weeks))
    number, week = number.ravel(), week.ravel()
    joined = random.integers(10, 900, customers)
    plan = random.choice(["S", "M", "L"], customers, p=[0.5, 0.3, 0.2])
    visits, tickets = random.poisson(4, len(week)), random.poisson(0.5, len(week))
    price = np.array([9.0, 19.0, 49.0])[np.searchsorted(["L", "M", "S"], plan)][number]
    pull = np.where(week < 48, -0.5, 0.35)  # visits bind customers, until a competitor's app turns it round
    risk = 1 / (1 + np.exp(2.2 - pull * (visits - 4) - 0.6 * tickets + 0.001 * joined[number]))
    snapshot = first + pd.to_timedelta(7 * week, unit="D")
    known_at = snapshot + pd.to_timedelta(random.uniform(10, 25, len(week)), unit="D")
    unknown = known_at > snapshot.max() + pd.Timedelta(hours=1)
    cancelled = pd.Series(random.random(len(week)) < risk).astype("boolean").mask(unknown)
    more = {f"usage_{place}": random.gamma(2, 3, len(week)).round(2) for place in range(9)}
    return pd.DataFrame(
        {
            "account": [f"A-{each:05d}" for each in number],
            "snapshot_date": snapshot,
            "plan": plan[number],
            "price": price,
            "visits": visits,
            "tickets": tickets,
            "days_since_joining": joined[number] + 7 * week,
            **more,
            "mobile": [f"+31 6 {10_000_000 + 37 * each}" for each in number],
            "currency": "EUR",
            "cancelled": cancelled,
            "outcome_at": pd.Series(known_at).mask(unknown),
        }
    )


def grid_load(days: int = 330, seed: int = 12) -> pd.DataFrame:
    """Hourly load of three substations, without an id and with the sensor's code -999 for a missing temperature."""
    random = np.random.default_rng(seed)
    hours = pd.date_range("2025-01-01", periods=24 * days, freq="h")
    parts = []
    for place, level in (("north", 40.0), ("south", 65.0), ("harbour", 22.0)):
        hour, day = hours.hour.to_numpy(), hours.dayofyear.to_numpy()
        temperature = 10 - 9 * np.cos(2 * np.pi * day / 365) + random.normal(0, 2, len(hours))
        growth = 1 + 0.25 * (day > 200)
        load = level * growth * (1 + 0.3 * np.sin((hour - 7) / 24 * 2 * np.pi)) + 0.4 * np.abs(temperature - 16)
        frame = pd.DataFrame(
            {"hour": hours.strftime("%Y-%m-%d %H:%M:%S"), "substation": place, "temperature": temperature.round(1)}
        )
        frame.loc[random.random(len(frame)) < 0.01, "temperature"] = -999.0
        frame["wind"] = random.gamma(2, 2, len(hours)).round(1)
        frame["is_holiday"] = np.where(random.random(len(hours)) < 0.03, "yes", "no")
        frame["load_mw"] = (load + random.normal(0, 1, len(hours))).round(2)
        parts.append(frame)
    return pd.concat(parts).sort_values(["hour", "substation"], ignore_index=True)


def tickets(count: int = 9000, seed: int = 13) -> pd.DataFrame:
    """Support tickets over a year; the team that solved one is known when it is closed, the last ones are still open."""
    random = np.random.default_rng(seed)
    opened = pd.Timestamp("2025-01-06T08:00:00Z") + pd.to_timedelta(
        np.sort(random.uniform(0, 360 * 24 * 60, count)), unit="min"
    )
    thing = random.integers(0, len(THINGS), count)
    channel = random.choice(["mail", "chat", "phone"], count)
    team = np.array(["billing", "network", "shipping"])[
        np.where(random.random(count) < 0.15, random.integers(0, 3, count), thing % 3)
    ]
    closed = pd.Series(opened + pd.to_timedelta(random.exponential(30, count) + 0.5, unit="h"))
    still_open = closed > opened.max()
    words = [
        f"my {THINGS[each]} {random.choice(VERBS)} {random.choice(THINGS)} number {random.integers(10_000)}"
        for each in thing
    ]
    return pd.DataFrame(
        {
            "ticket_no": np.arange(70_001, 70_001 + count),
            "opened_at": opened.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "from": [f"{random.choice(NAMES)}.{random.integers(999)}@example.org" for _ in range(count)],
            "message": words,
            "product": [THINGS[each] for each in thing],
            "channel": channel,
            "priority": random.integers(1, 4, count),
            "words": [len(each.split()) for each in words],
            "team": pd.Series(team, dtype=object).mask(still_open),
            "closed_at": closed.mask(still_open).dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
