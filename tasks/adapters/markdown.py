"""Parts of a markdown page, and the key under which the dashboard keeps its history."""


def key(kind: str, model: str) -> str:
    """An artifact key as Prefect accepts it: lower case, digits and dashes. One key is one history in the dashboard."""
    return f"{kind}-{model}".replace("_", "-")


def bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
