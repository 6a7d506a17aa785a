"""Columns that look as if they identify people, by name and by the pattern of their values: a suggestion, never a proof."""

import ipaddress
import re

import pandas as pd

SAMPLE = 500
MOST = 0.7
"""Share of the sampled values that must fit a pattern."""
NAMES = {
    "an e-mail address": r"e_?mail|mail_address",
    "a phone number": r"phone|mobile_?(no|number)|msisdn|fax|telephone|tel",
    "a person's name": r"(first|last|full|given|family|user|customer|client|contact|patient|employee|sur)_?name|person|name",
    "an address": r"address|street|zip|zip_?code|post_?code|postal_?code|house_?(no|number)",
    "a bank account": r"iban|bic|account_?(no|number)|card_?(no|number)|pan",
    "an IP address": r"ip|ip_?addr(ess)?|client_?ip|remote_?ip",
    "an official number": r"ssn|passport(_?(no|number))?|tax_?id|national_?id|social_?security(_?number)?",
    "a date of birth": r"dob|birth_?(date|day)|date_?of_?birth",
}
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
PHONE = re.compile(r"(\+|00|\(?0)[\d ()/.-]{6,}\d")


def words(name: str) -> str:
    """Return a column's name in snake case.

    >>> words("customerEMail"), words("IP Address")
    ('customer_email', 'ip_address')
    """
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.replace("EMail", "Email").replace("E-Mail", "Email"))
    return re.sub(r"[\W_]+", "_", split).strip("_").casefold()


def looks_personal(name: str, values: pd.Series) -> str | None:
    """Return what a column seems to hold, such as "an e-mail address"; None if nothing points to a person.

    `values` are those of the column; numbers and categories of few values are judged by name only if the name is
    specific, because a `name` or `address` of ten values names plans or shops.
    """
    texts = values.dropna()
    if pd.api.types.is_numeric_dtype(texts.dtype) or pd.api.types.is_bool_dtype(texts.dtype):
        texts = texts.head(0)
    sample = texts.head(20 * SAMPLE).drop_duplicates().head(SAMPLE).astype(str)
    by_value = _by_values(sample)
    if by_value:
        return by_value
    snake = words(name)
    for kind, pattern in NAMES.items():
        specific = re.search(rf"(^|_)({pattern})$", snake)
        if (
            specific
            and not snake.endswith(("_id", "_count", "_type", "_flag"))
            and (len(sample) > 20 or kind == "a bank account")
        ):
            return kind
        if specific and kind in ("an official number", "a date of birth"):
            return kind
    return None


def _by_values(sample: pd.Series) -> str | None:
    if len(sample) < 5:
        return None
    for kind, fits in (
        ("an e-mail address", lambda text: bool(EMAIL.fullmatch(text))),
        ("a bank account", lambda text: bool(IBAN.fullmatch(text.replace(" ", "")))),
        ("an IP address", _is_ip),
        ("a phone number", lambda text: bool(PHONE.fullmatch(text)) and not re.fullmatch(r"\d{4}-\d\d-\d\d", text)),
    ):
        if sample.map(fits).mean() >= MOST:
            return kind
    return None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "." in text or ":" in text
