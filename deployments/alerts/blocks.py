"""Create notification blocks from files with their secrets, and find those on a server.

A chat webhook's address is a secret. It is read from a file that only its owner can read, or from standard input, and is
stored in a secret field of the block, which Prefect encrypts. Messages never quote it. Several blocks of other types may
have the name of the shared block, but only one may get alerts: Prefect allows one per type and name, and which of several
alerts would use is undefined.
"""

import difflib
import logging
import re
import stat
import sys
from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect.blocks import notifications
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from pydantic import SecretStr, ValidationError

from deployments.config.blocks.alerts import BLOCK, SHARED_BLOCK
from tasks.policy.records.errors import DeploymentError

CUSTOM = CustomWebhookNotificationBlock.get_block_type_slug()
STDIN = Path("-")
UNUSABLE = "cannot use it; expected the address or keys that the service shows you"
TALKATIVE = ("apprise", "httpx", "httpcore")
NOTIFYING = {"block_schemas": {"block_capabilities": {"all_": ["notify"]}}, "include_secrets": False}
"""Filter of block documents that can send a notification."""


def types() -> dict[str, type[NotificationBlock]]:
    """Return Prefect's own notification blocks by slug."""
    found = [each for each in vars(notifications).values() if isinstance(each, type)]
    kinds: list[type[NotificationBlock]] = [each for each in found if issubclass(each, NotificationBlock)]
    return {kind.get_block_type_slug(): kind for kind in kinds if ABC not in kind.__bases__}


def named_blocks(documents: Iterator[dict[str, Any]]) -> dict[str, str]:
    """Return ids of block documents by type/name; one with the shared name is also found by that name alone."""
    found: dict[str, str] = {}
    for document in documents:
        name, slug, identity = document["name"], document["block_type"]["slug"], str(document["id"])
        found[f"{slug}/{name}"] = identity
        if name == SHARED_BLOCK:
            found.setdefault(SHARED_BLOCK, identity)
    return found


def refuse_other_types(found: Sequence[str]) -> None:
    """Raise DeploymentError if a block of the shared name exists with a type other than the one that a file creates."""
    others = sorted(
        slug for slug, _, name in (each.partition("/") for each in found) if name == SHARED_BLOCK and slug != CUSTOM
    )
    if others:
        raise DeploymentError(
            f"--alerts: the server has a block named {SHARED_BLOCK} of type {', '.join(others)}, expected {CUSTOM}, or none "
            "yet; alerts would not go to the file's address; delete that block in the dashboard, or omit --alerts to keep "
            "using it"
        )


def why_missing(block: str) -> str:
    """Say how to create a block, or that no such type is known."""
    slug, _, name = block.partition("/")
    if slug in types():
        return f"create it: perennial alerts add {block} --from FILE"
    near = difflib.get_close_matches(slug, types(), n=1)
    hint = f"did you mean {near[0]}/{name}? " if near else ""
    return f"{hint}Prefect's own types are {', '.join(sorted(types()))}; create blocks of others in the dashboard"


def save_block(block: str, file: Path) -> str:
    """Create or replace a block from a file; return its id. Raises DeploymentError, which quotes nothing of the file."""
    slug, _, name = block.partition("/")
    kind = types().get(slug)
    if kind is None or not name:
        raise DeploymentError(f"{block}: expected TYPE/NAME, such as slack-webhook/ml-team; {why_missing(block)}")
    if not re.fullmatch(BLOCK, block):
        raise DeploymentError(
            f"{block}: the name is {name!r}, expected lower-case letters, digits and hyphens, such as {slug}/ml-team"
        )
    made = _made(kind, _content(file), "standard input" if file == STDIN else str(file))
    return str(made.save(name, overwrite=True))


def _content(file: Path) -> str:
    """Return the text of a file that only its owner can read, or of standard input."""
    if file == STDIN:
        return sys.stdin.read().strip()
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DeploymentError(
            f"{file}: cannot be read ({reason}); expected a file with the address of a webhook"
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise DeploymentError(f"{file}: others may read it, expected only its owner to; run: chmod 600 {file}")
    return text


def _made(kind: type[NotificationBlock], text: str, where: str) -> NotificationBlock:
    is_address = text.startswith(("https://", "http://")) and len(text.split()) == 1
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    if is_address and kind is CustomWebhookNotificationBlock:
        return _webhook(text)
    if is_address and needed == ["url"]:
        return _checked(lambda: kind(url=SecretStr(text)), where)
    if kind is CustomWebhookNotificationBlock or needed == ["url"]:
        raise DeploymentError(
            f"{where}: expected one address that begins with https:// and accepts JSON, as chat webhooks do"
        )
    return _checked(lambda: kind.model_validate(_settings(text, where, needed)), where)


def _webhook(address: str) -> NotificationBlock:
    return CustomWebhookNotificationBlock(
        name="perennial",
        url="{{address}}",
        json_data={"text": "{{subject}}\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"},
        secrets={"address": address},
    )


def _settings(text: str, where: str, needed: Sequence[str]) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise DeploymentError(f"{where}: expected lines of YAML with {', '.join(needed)}")
    return found


def _checked(make: Callable[[], NotificationBlock], where: str) -> NotificationBlock:
    """Return the block. Its own errors may quote secrets, so only names of settings are passed on."""
    try:
        with quiet():
            made = make()
    except ValidationError as error:
        settings = [fault for fault in error.errors(include_input=False) if fault["loc"]]
        faults = [f"{'.'.join(map(str, fault['loc']))} ({fault['type']})" for fault in settings]
        what = f"refuses {', '.join(faults)}" if faults else UNUSABLE
        raise DeploymentError(f"{where}: Prefect's block {what}") from None
    except (TypeError, ValueError):  # of apprise, on an address or key of another form
        raise DeploymentError(f"{where}: Prefect's block {UNUSABLE}") from None
    if not getattr(made, "_apprise_client", True):  # a client without a target: it would send nothing, without an error
        raise DeploymentError(f"{where}: Prefect's block {UNUSABLE}")
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loggers of libraries whose messages quote addresses and keys."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
