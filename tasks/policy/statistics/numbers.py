"""Numbers in sentences, written so that each stands on its own side of the limit it was held against.

Rounded without regard to it, 0.298 reads as 30 % against a limit of 30 %, and a limit that was computed as one that does
not quite do what the sentence promises. Limits that a person wrote are quoted as written (`:g`).
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

MOST_DIGITS = 17
"""Digits that tell any two floats apart."""


def beside(value: float, limit: float, digits: int = 4, form: str = "g") -> str:
    """The value with as many digits, at least so many, as keep it on its side of the limit; `form` as in a format.

    >>> beside(2.999, 3, 2, "f"), beside(0.79996, 0.8), beside(0.298, 0.3, 0, "%")
    ('2.999', '0.79996', '29.8%')
    """
    for length in range(digits, MOST_DIGITS + 1):
        text = f"{value:.{length}{form}}"
        read = float(Decimal(text.rstrip("%")).scaleb(-2 if form == "%" else 0))  # in decimals: 100 · 0.07 is not 7
        if (read < limit, read > limit) == (value < limit, value > limit):
            return text
    return repr(value)


def rounded(limit: float, up: bool, digits: int = 4) -> str:
    """A computed limit, rounded to the side on which what is said of it holds."""
    exact = Decimal(f"{limit:.12g}")  # what sums of floats are off by is no reason to go a step further
    return f"{float(Context(digits, ROUND_CEILING if up else ROUND_FLOOR).create_decimal(exact)):.{digits}g}"
