"""The examples of "Bring what you have" in deployments/README.md, which tests run as they are printed."""

import re

from deployments.reference import HERE


def example(section: str, language: str = "yaml", number: int = 0) -> str:
    """Return a code block of a section, such as `example("labels")`."""
    text = (HERE / "ways_in" / f"{section}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)[number]
