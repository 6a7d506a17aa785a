"""S3 credentials from an AWS profile (`aws configure`, AWS_PROFILE), resolved by boto3, which supports every kind.

The Rust clients (delta-rs, obstore) read credentials from the environment and the machine (instance, container, web
identity) but not from a profile. Arrow's client reads profiles with static keys, but not profiles that assume a role.
If the environment has no credentials and a profile exists, all clients use boto3's. They are resolved again each time a
store is opened.
"""

import os
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tasks.policy.records.errors import AwsProfileError

OTHER_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
FILES = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))


class Keys(NamedTuple):
    """Credentials of a profile; `token` is set for temporary credentials."""

    access_key: str
    secret_key: str
    token: str | None
    region: str | None

    def storage_options(self) -> dict[str, str]:
        """Return the credentials as storage options of the Delta client."""
        named = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.token,
            "AWS_REGION": self.region,
        }
        return {name: value for name, value in named.items() if value}


def is_in_use(address: str) -> bool:
    """Return whether the credentials for this address come from a profile."""
    if not address.startswith(("s3://", "s3a://")) or any(os.environ.get(name) for name in OTHER_CREDENTIALS):
        return False
    if os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE"):
        return True
    return any(Path(os.environ.get(name) or default).expanduser().is_file() for name, default in FILES)


def keys(address: str) -> Keys | None:
    """Return the profile's credentials, or None if the address uses another source. Raises AwsProfileError."""
    if not is_in_use(address):
        return None
    from botocore.exceptions import BotoCoreError  # installed with boto3; imported only if a profile is in use

    try:
        session = _session(os.environ.get("AWS_PROFILE"))
        found = session.get_credentials()
        frozen = found.get_frozen_credentials() if found else None
    except BotoCoreError as error:
        raise _unusable(type(error).__name__) from None  # the message may quote the profile's secrets
    if frozen is None:
        raise _unusable("it has no keys")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or session.region_name
    return Keys(frozen.access_key, frozen.secret_key, frozen.token, region)


def storage_options(address: str) -> dict[str, str] | None:
    """Return the Delta client's storage options in addition to the environment, or None if it needs none."""
    found = keys(address)
    return found.storage_options() if found else None


def provider(address: str) -> Any:
    """Return a credential provider that refreshes the profile's credentials, or None if obstore finds its own."""
    if keys(address) is None:
        return None
    # imports boto3, which takes half a second; only profiles need it
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider(_session(os.environ.get("AWS_PROFILE")), ttl=timedelta(minutes=1))


@cache
def _session(profile: str | None) -> Any:
    import boto3  # takes half a second; only profiles need it

    return boto3.Session(profile_name=profile)


def _unusable(reason: str) -> AwsProfileError:
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    return AwsProfileError(
        f"AWS profile {name!r}: its keys cannot be used ({reason}); expected keys, a role or a session that is logged in, in "
        "~/.aws; log in again (aws sso login), set AWS_PROFILE to another profile, or set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY"
    )
