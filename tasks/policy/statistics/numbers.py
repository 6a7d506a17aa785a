"""Format numbers for sentences so that the text agrees with the comparison that was made.

With plain rounding, 0.298 reads as 30 % against a limit of 30 %, and a rounded computed limit may not satisfy what the
sentence states. Limits that a user set are quoted as written (`:g`).
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

MOST_DIGITS = 17
"""Digits that distinguish any two floats."""
SLACK = 2e-6
"""Relative difference of a bound that was widened for rounding errors (`profile.ROUNDING`)."""


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


def percent(share: float, digits: int = 3) -> str:
    """A share in percent in `digits` significant digits, or in as many as distinguish it from 0 and 100 %.

    >>> percent(0.87587), percent(0.9996), percent(0.0004), percent(1), percent(0.999999)
    ('87.6', '99.96', '0.04', '100', '99.9999')
    """
    for length in range(digits, MOST_DIGITS + 1):
        text = plain(f"{Decimal(repr(float(share))).scaleb(2):.{length}g}")
        if (float(text) in (0, 100)) == (share in (0, 1)):
            break
    return text


def rounded_bound(bound: float, decimals: int, up: bool) -> str:
    """A computed bound in this many decimals, rounded to the side of the values that it accepts.

    A bound of up to four digits is returned as it is, because a user may have set it.

    >>> rounded_bound(-61.27384, 1, up=True), rounded_bound(130.50013, 0, up=False), rounded_bound(0.125, 0, up=True)
    ('-61.2', '130.5', '0.125')
    """
    if math.isclose(float(f"{bound:.4g}"), bound, rel_tol=SLACK):
        return plain(f"{bound:.4g}")
    step = Decimal(1).scaleb(-decimals)
    exact = Decimal(f"{bound:.12g}")  # floating-point error of a sum must not move it by another step
    return plain(str(exact.quantize(step, ROUND_CEILING if up else ROUND_FLOOR)))


def plain(text: str) -> str:
    """A number's text without an exponent and without trailing zeros.

    >>> plain("1.50e+03"), plain("0.0400"), plain("-0")
    ('1500', '0.04', '0')
    """
    number = Decimal(text)
    return f"{number.normalize():f}" if number else "0"
