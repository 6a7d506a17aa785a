"""Send a test message through every notification block that gets a model's alerts."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client

from deployments.alerts.blocks import NOTIFYING, named_blocks, quiet, why_missing
from deployments.config.blocks.alerts import SEVERITIES, SHARED_BLOCK, Audience

PAGE = 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome of one test message. `failure` is empty if the service accepted it."""

    severity: str
    block: str
    failure: str = ""

    def __str__(self) -> str:
        return f"{self.severity:<9} {self.block}: {self.failure or 'delivered'}"


def server_blocks(client: SyncPrefectClient) -> dict[str, str]:
    """Return the ids of the server's notification blocks by type/name, that of the shared block also by its name alone."""

    def pages() -> Iterator[dict[str, object]]:
        offset, full = 0, True
        while full:
            asked = {**NOTIFYING, "limit": PAGE, "offset": offset}
            page = client.request("POST", "/block_documents/filter", json=asked).json()
            yield from page
            offset, full = offset + PAGE, len(page) == PAGE

    return named_blocks(pages())


def send_test_messages(model: str, audience: Audience) -> tuple[Delivery, ...]:
    """Send one message per severity and block of a model; return the outcomes, none of which quotes a secret."""
    with get_client(sync_client=True) as client:
        blocks = server_blocks(client)
    return tuple(
        Delivery(severity, block, _send(blocks[block], model, severity) if block in blocks else _absent(block))
        for severity in SEVERITIES
        for block in audience.named(model, severity)
    )


def _absent(block: str) -> str:
    return f"does not exist; {why_missing(f'custom-webhook/{block}' if block == SHARED_BLOCK else block)}"


def _send(identity: str, model: str, severity: str) -> str:
    """Send a message through a block; return why that failed, or nothing."""
    try:
        with quiet():
            loaded = Block.load_from_ref(UUID(identity))
            if not isinstance(loaded, NotificationBlock):
                return "is no notification block"
            with loaded.raise_on_failure():
                loaded.notify(
                    body=f"A test by `perennial alerts test`. Alerts of {model} with severity {severity} arrive here.",
                    subject=f"{model}: test of {severity} alerts",
                )
    except httpx.HTTPStatusError as error:
        return f"failed: the service answered {error.response.status_code}"
    except NotificationError:
        return "failed: the service did not accept the message; check the address or key, then add the block again"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"failed: the service cannot be reached ({type(error).__name__})"
    except (TypeError, ValueError) as error:  # of Prefect and apprise, for a block whose content cannot be used
        return f"failed: Prefect cannot use the block ({type(error).__name__}); add it again"
    return ""
