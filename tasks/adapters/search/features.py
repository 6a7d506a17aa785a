"""Derived features that a search may try for a model, as choices that the sampler draws and recipes that they mean.

Which numeric features may interact is decided by their importance in the champion's settings on the first fold, so no row
that judges a trial is read. Constraints on features exclude what would break them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from pydantic import JsonValue

from deployments.config.model import ModelConfig
from tasks.adapters.models.estimators import Fitted, estimator_class
from tasks.adapters.models.preparation import INTERACTION, MONOTONE, SCALED
from tasks.policy.training.recipe import FeatureRecipe, Interaction, InteractionKind
from tasks.policy.training.search import SearchRange

PREFIX = "features."
CALENDAR, TARGETS, PAIRS, SQUASHED = (f"{PREFIX}{name}" for name in ("calendar", "targets", "interactions", "squashed"))
NONE = "none"
MOST_IMPORTANT = 3
"""Numeric features whose pairs may interact."""
FEWEST_CATEGORIES = 3
"""Categories from which a mean label can say more than the code."""
_KINDS: dict[str, InteractionKind] = {"products": "product", "ratios": "ratio", "differences": "difference"}


@dataclass(frozen=True, slots=True)
class Derivable:
    """Features that others may be derived from: the most important numeric ones first, and categories with a mean label."""

    important: tuple[str, ...] = ()
    encodable: tuple[str, ...] = ()


def derivable(config: ModelConfig, fitted: Fitted) -> Derivable:
    """Return what a fit of the present settings shows: the importance of features, and their categories."""
    bound, listed = _monotone(config), config.columns.features
    shares, categories = fitted.importance, fitted.scorer.encoding.categories
    numeric = sorted(listed.numeric, key=lambda name: -shares.get(name, 0.0))
    return Derivable(
        tuple(name for name in numeric if name not in bound)[:MOST_IMPORTANT],
        tuple(
            name
            for name in listed.categorical
            if len(categories.get(name, ())) >= FEWEST_CATEGORIES and name not in bound
        ),
    )


def choices(config: ModelConfig, found: Derivable) -> dict[str, SearchRange]:
    """Return what may be derived for this model; empty for features of the user's own."""
    training = config.training
    if training.pipeline or any(name in training.parameters for name in INTERACTION):
        return {}
    ranges = {CALENDAR: SearchRange(choices=(NONE, "numbers", "cyclic"))}
    if config.task != "multiclass" and found.encodable:
        ranges[TARGETS] = SearchRange(choices=(NONE, "encoded"))
    if len(found.important) > 1:
        ranges[PAIRS] = SearchRange(choices=(NONE, *_KINDS))
    if _is_scaled(config) and config.columns.features.numeric:
        ranges[SQUASHED] = SearchRange(choices=(NONE, "squashed"))
    return ranges


def recipe_of(config: ModelConfig, drawn: Mapping[str, JsonValue], found: Derivable) -> FeatureRecipe:
    """Return the recipe that drawn choices mean; without any, that of the settings in `config`."""
    if not any(name.startswith(PREFIX) for name in drawn):
        return config.training.recipe or FeatureRecipe()
    pairs = combinations(found.important, 2)
    kind = _KINDS.get(str(drawn.get(PAIRS, NONE)))
    calendar = drawn.get(CALENDAR, NONE)
    return FeatureRecipe(
        calendar="cyclic" if calendar == "cyclic" else "numbers" if calendar == "numbers" else None,
        target_encoded=found.encodable if drawn.get(TARGETS) == "encoded" else (),
        interactions=tuple(Interaction(kind=kind, left=one, right=other) for one, other in pairs) if kind else (),
        squashed=config.columns.features.numeric if drawn.get(SQUASHED) == "squashed" else (),
    )


def choices_of(recipe: FeatureRecipe) -> dict[str, JsonValue]:
    """Return the choices nearest to a recipe, which tell the sampler where the champion's settings are."""
    kinds = {name for name, kind in _KINDS.items() if any(each.kind == kind for each in recipe.interactions)}
    return {
        CALENDAR: recipe.calendar or NONE,
        TARGETS: "encoded" if recipe.target_encoded else NONE,
        PAIRS: min(kinds, default=NONE),
        SQUASHED: "squashed" if recipe.squashed else NONE,
    }


def _monotone(config: ModelConfig) -> tuple[str, ...]:
    """Return the features that a monotone constraint holds; what is derived from them would break it."""
    given = [config.training.parameters.get(name) for name in MONOTONE]
    named = [name for each in given if isinstance(each, Mapping) for name in each]
    unnamed = any(each is not None and not isinstance(each, Mapping) for each in given)
    return config.columns.features.names if unnamed else tuple(named)


def _is_scaled(config: ModelConfig) -> bool:
    return any(kind.__module__.startswith(SCALED) for kind in estimator_class(config).__mro__)
