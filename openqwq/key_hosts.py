"""Where secrets may go: a recipe or a data file names addresses, but only the user says which of them get a key.

Public: check_key_host, KEY_HOSTS.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from openqwq.errors import UserError

KEY_HOSTS = "OPENQWQ_KEY_HOSTS"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_key_host(url: str, secret: str) -> None:
    """Raises UserError unless the host of `url` is this machine, or among the hosts in the variable OPENQWQ_KEY_HOSTS.

    secret: what would be sent there, for the message. A host may be given with its port, which must then be the same.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    allowed = [entry.strip().lower() for entry in os.environ.get(KEY_HOSTS, "").split(",") if entry.strip()]
    if host in LOOPBACK or host in allowed or (parts.port is not None and f"{host}:{parts.port}" in allowed):
        return
    raise UserError(
        f"{secret} would be sent to {host}, which you have not allowed",
        hint=f"if you trust it: export {KEY_HOSTS}={','.join([*allowed, host])}",
    )
