"""Who may come in, looked at before anything starts."""

from __future__ import annotations

from online_draft.errors import ConfigError
from online_draft.launch.ports import is_loopback
from online_draft.serve.access.keyring import Keyring
from online_draft.settings import Settings


def check_access(settings: Settings) -> str:
    """One line that says who may use the endpoint.

    ConfigError when keys can't be understood, and when an endpoint that others reach would have none.
    """
    keyring = Keyring(settings.keys_file, settings.access.keys)
    local = is_loopback(settings.host)
    where = f"this machine ({settings.host})" if local else settings.host
    if settings.access.open:
        return f"warning: access.open is set: whoever reaches {where} may use this endpoint"
    if keyring.required:
        return f"API keys: {len(keyring.keys)} valid, from {settings.keys_file}"
    if local:
        return f"no API keys: whoever is on {where} may use this endpoint, nobody else reaches it"
    raise ConfigError(
        "host",
        f"{settings.host} is reachable from elsewhere and there are no API keys; make one with "
        "`online-draft keys create NAME`, or listen on 127.0.0.1, or set access.open=true if something in "
        "front of this endpoint checks who comes in",
    )
