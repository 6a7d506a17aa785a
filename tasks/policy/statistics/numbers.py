"""Format numbers for sentences so that the text agrees with the comparison that was made.

With plain rounding, 0.298 reads as 30 % against a limit of 30 %, and a rounded computed limit may not satisfy what the
sentence states. Limits that a user set are quoted as written (`:g`).
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

MOST_DIGITS = 17
"""Digits that distinguish any two floats."""


def beside(value: float, limit: float, digits: int = 4, form: str = "g") -> str:
    """The value with enough digits, at least `digits`, to stay on its side of the limit; `form` is a format type.

    >>> beside(2.999, 3, 2, "f"), beside(0.79996, 0.8), beside(0.298, 0.3, 0, "%")
    ('2.999', '0.79996', '29.8%')
    """
    for length in range(digits, MOST_DIGITS + 1):
        text = f"{value:.{length}{form}}"
        read = float(Decimal(text.rstrip("%")).scaleb(-2 if form == "%" else 0))  # as decimals: 100 · 0.07 is not 7
        if (read < limit, read > limit) == (value < limit, value > limit):
            return text
    return repr(value)


def rounded(limit: float, up: bool, digits: int = 4) -> str:
    """A computed limit, rounded to the side on which the sentence about it holds."""
    exact = Decimal(f"{limit:.12g}")  # floating-point error of a sum must not move it by another step
    return f"{float(Context(digits, ROUND_CEILING if up else ROUND_FLOOR).create_decimal(exact)):.{digits}g}"
