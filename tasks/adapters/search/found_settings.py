"""The settings that an earlier search found: the next training begins with them, and a race is run with them."""

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.search.forward_search import asked_for, with_settings
from tasks.policy.training.search import SearchReport


def champions_search(config: ModelConfig) -> SearchReport | None:
    """Return the champion's search; None without one, or once the model's file asks for other settings than then."""
    if config.training.search is None or registry.CHAMPION not in registry.aliases(config.name):
        return None
    earlier = registry.version_files.search_report(registry.version(config.name, registry.CHAMPION))
    return earlier if earlier and earlier.asked_for == asked_for(config) else None


def with_found_settings(config: ModelConfig) -> ModelConfig:
    """Return the configuration with what the champion's search found, or unchanged."""
    earlier = champions_search(config)
    return with_settings(config, earlier.parameters, earlier.recipe) if earlier else config
