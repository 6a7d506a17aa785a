"""Parts of a Markdown page, and the artifact key of its history in the dashboard.

Names, reasons and category values are untrusted. Unescaped, they could forge a heading, break out of a table, or show
an external image above the form that approves a promotion.
"""

from collections.abc import Sequence
from html import escape

from tasks.policy.records.text import one_line, plain


def key(kind: str, model: str) -> str:
    """Return an artifact key as Prefect requires (lower case, digits, dashes); the dashboard has a history per key."""
    return f"{kind}-{model}".replace("_", "-")


def quoted(text: str) -> str:
    """Return a person's comment as a block quote; empty without one."""
    return f"\n\n> {plain(text)}" if text else ""


def bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in sentences)


def folded(title: str, sentences: tuple[str, ...]) -> str:
    """Return a collapsible list, as one HTML block without a blank line, at which the dashboard would end it."""
    items = "".join(f"<li>{escape(one_line(sentence))}</li>" for sentence in sentences)
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
