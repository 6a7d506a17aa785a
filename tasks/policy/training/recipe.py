"""Features that are derived from those of the rows: what a model's file may ask for, and what the search may choose.

A recipe is data. Fixed code fits it to training rows and applies it wherever the model predicts
(`tasks/adapters/recipes/`), so a stored model holds numbers only, never code.
"""

from typing import Literal

from pydantic import Field

from tasks.policy.records.base import Settings

CALENDAR_PARTS = ("hour", "weekday", "month", "day_of_year")
InteractionKind = Literal["product", "ratio", "difference"]


class Interaction(Settings):
    """One number from two numeric features."""

    kind: InteractionKind = Field(examples=["ratio"])
    """`left × right`, `left / right` (missing where right is 0) or `left - right`."""
    left: str = Field(examples=["balance"])
    """A numeric feature."""
    right: str = Field(examples=["income"])
    """Another numeric feature."""

    @property
    def name(self) -> str:
        return f"{self.left} {self.kind} {self.right}"


class FeatureRecipe(Settings):
    """Derived features of a model. The search fills it in; a model's file may also fix it."""

    calendar: Literal["numbers", "cyclic"] | None = Field(None, examples=["numbers"])
    """Hour, weekday, month and day of the year of the row's time in UTC, as numbers or as sine and cosine."""
    target_encoded: tuple[str, ...] = Field((), examples=[["plan"]])
    """Categorical features that get the mean label of each category beside them, learned from earlier rows only."""
    interactions: tuple[Interaction, ...] = Field(
        (), examples=[[{"kind": "ratio", "left": "balance", "right": "income"}]]
    )
    """Products, ratios and differences of two numeric features."""
    squashed: tuple[str, ...] = Field((), examples=[["balance"]])
    """Numeric features whose outliers are pulled in: centred, scaled by the quartiles, and bounded to ±3."""

    @property
    def is_empty(self) -> bool:
        return self == FeatureRecipe()

    @property
    def sources(self) -> tuple[str, ...]:
        """The features that it reads, each once."""
        pairs = (name for each in self.interactions for name in (each.left, each.right))
        return tuple(dict.fromkeys((*self.target_encoded, *pairs, *self.squashed)))

    def describe(self) -> str:
        """Describe the recipe in words; `no derived features` for an empty one."""
        parts = [f"calendar parts as {self.calendar}"] if self.calendar else []
        parts += [f"target encoding of {', '.join(self.target_encoded)}"] if self.target_encoded else []
        parts += [f"{', '.join(each.name for each in self.interactions)}"] if self.interactions else []
        parts += [f"{', '.join(self.squashed)} without outliers"] if self.squashed else []
        return "; ".join(parts) or "no derived features"
