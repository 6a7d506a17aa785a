"""Create the notification block for alerts from a file with its webhook address: `apply --alerts FILE`.

A chat webhook's address is a secret. It is read from a file that only its owner can read, and stored in the block's
secrets, which Prefect encrypts. A notification block of another type may have the name instead, but only one block may:
Prefect allows one per type, and which of several alerts would use is undefined.
"""

import stat
from collections.abc import Sequence
from pathlib import Path

from prefect.blocks.notifications import CustomWebhookNotificationBlock

from deployments.apply.definitions import ALERTS
from tasks.policy.records.errors import DeploymentError

TYPE = CustomWebhookNotificationBlock.get_block_type_slug()


def refuse_other_types(found: Sequence[str]) -> None:
    """Raise DeploymentError if a block of this name exists with a type other than the one that a file creates."""
    others = ", ".join(sorted(set(found) - {TYPE}))
    if others:
        raise DeploymentError(
            f"--alerts: the server has a block named {ALERTS} of type {others}, expected {TYPE}, or none yet; alerts would "
            "not go to the file's address; delete that block in the dashboard, or omit --alerts to keep using it"
        )


def save_alert_block(file: Path) -> str:
    """Create or replace the block; return its id. Raises DeploymentError if the file is unsuitable."""
    try:
        mode, address = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeploymentError(
            f"{file}: cannot be read ({error}); expected a file with the address of a webhook"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise DeploymentError(f"{file}: others may read it, expected only its owner to; run: chmod 600 {file}")
    if not address.startswith(("https://", "http://")) or len(address.split()) != 1:
        raise DeploymentError(
            f"{file}: expected one address that begins with https:// and accepts JSON, as chat webhooks do"
        )
    block = CustomWebhookNotificationBlock(
        name="perennial",
        url="{{address}}",
        json_data={"text": "{{subject}}\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"},
        secrets={"address": address},
    )
    return str(block.save(ALERTS, overwrite=True))
