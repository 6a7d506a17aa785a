"""Parts of a markdown page, and the key of its history in the dashboard.

Names, reasons and category values are untrusted. Unescaped they could forge a heading, break out of a table, or show an
image from elsewhere above the form that approves a promotion.
"""

from html import escape

from tasks.policy.records.text import one_line, plain


def key(kind: str, model: str) -> str:
    """An artifact key as Prefect accepts it: lower case, digits and dashes. One key is one history in the dashboard."""
    return f"{kind}-{model}".replace("_", "-")


def quoted(text: str) -> str:
    """A person's comment as a quoted block; empty without one."""
    return f"\n\n> {plain(text)}" if text else ""


def bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {plain(sentence)}" for sentence in sentences)


def folded(title: str, sentences: tuple[str, ...]) -> str:
    """A list that opens with a click. One block of HTML without a blank line: the dashboard cuts it at the first."""
    items = "".join(f"<li>{escape(one_line(sentence))}</li>" for sentence in sentences)
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
