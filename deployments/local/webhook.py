"""Notify Perennial when new rows arrive: `POST /hooks/data-landed` at the reports' address starts `monitor`.

    curl -u USER -H 'Content-Type: application/json' -d '{"model": "churn", "until": "2026-06-05T00:00:00Z"}' …

A self-hosted Prefect has no webhooks. A notice is untrusted until it is checked: a small JSON object with the name of a
deployed model and a time. It becomes the event `perennial.data.landed`; the same notice twice is one event.
"""

import os
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4, uuid5

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from deployments.config.model import available_models
from tasks.policy.records.base import CLOCKS_APART
from tasks.policy.records.events import about

PATH = "/hooks/data-landed"
MOST_BYTES = 4096
_NAMESPACE = UUID("0d6c3d0c-6d0c-4a55-9f0c-8f4f0b0c7e11")


class DataLanded(BaseModel):
    """What a notice may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,62}$")]
    until: Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC))] | None = None

    @property
    def event(self) -> dict[str, object]:
        """As Prefect's API takes it."""
        until = self.until.astimezone(UTC).isoformat() if self.until else None
        payload = {"model": self.model, **({"until": until} if until else {})}
        return {
            "id": str(uuid5(_NAMESPACE, f"{self.model} {until}") if until else uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "perennial.data.landed",
            "resource": about("perennial.model", self.model, payload),
            "payload": payload,
        }


class NotTaken(Exception):
    """A notice was refused: the HTTP status that says so, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def announced(length: str) -> int:
    """The bytes that a Content-Length announces. Raises NotTaken; `²` is a digit too, and 5,000 nines are refused by int."""
    if not (length.isascii() and length.isdigit()) or len(length) > len(str(MOST_BYTES)) or int(length) > MOST_BYTES:
        raise NotTaken(413, f"expected a Content-Length of at most {MOST_BYTES} bytes, and as many bytes")
    return int(length)


def read_notice(content_type: str, length: str, body: bytes) -> DataLanded:
    """What a request says. Raises NotTaken. A web page elsewhere cannot send this content type unasked."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise NotTaken(415, "expected Content-Type: application/json")
    if len(body) != announced(length):
        raise NotTaken(413, f"expected {length} bytes as announced, found {len(body)}")
    try:
        notice = DataLanded.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise NotTaken(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error
    now = datetime.now(UTC)
    if notice.until and notice.until > now + CLOCKS_APART:
        raise NotTaken(422, f"until: lies in the future, expected no later than {now:%Y-%m-%dT%H:%M:%SZ}")
    if notice.model not in available_models():
        raise NotTaken(404, "no such model is deployed")
    return notice


def pass_on(notice: DataLanded) -> None:
    """Give the event to the Prefect server. Raises NotTaken where it does not answer."""
    address, log_in = os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING")
    if not address:
        raise NotTaken(503, "PREFECT_API_URL is not set")
    user, _, password = (log_in or "").partition(":")
    try:
        with httpx.Client(base_url=address, auth=(user, password) if log_in else None, timeout=10) as client:
            client.post("/events", json=[notice.event], headers=_token(client)).raise_for_status()
    except httpx.HTTPError as error:
        raise NotTaken(503, "the Prefect server did not take the event; send it again") from error


def _token(client: httpx.Client) -> dict[str, str]:
    """Prefect's headers against forged requests; empty where the server does not require them."""
    name = str(uuid4())
    asked = client.get("/csrf-token", params={"client": name})
    return {"Prefect-Csrf-Token": asked.json()["token"], "Prefect-Csrf-Client": name} if asked.is_success else {}
