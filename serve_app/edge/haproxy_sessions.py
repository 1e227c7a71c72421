"""How many requests HAProxy is answering."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

ADMIN_SOCKET = "admin.sock"
FRONTEND = "fe=http_frontend "
"""How HAProxy writes, in its list of sessions, that one came in through the service's port."""
PATIENCE_S = 2.0


def open_requests(folder: Path) -> int:
    """The requests of the running HAProxy with files in `folder`, without idle connections. 0 if it does not answer."""
    total = 0
    for path in folder.glob(f"*/{ADMIN_SOCKET}"):
        try:
            total += command(path, "show sess").count(FRONTEND)
        except OSError:
            continue
    return total


def command(path: Path, words: str) -> str:
    """HAProxy's answer to a command at its socket. Raises `OSError`."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as admin:
        admin.settimeout(PATIENCE_S)
        admin.connect(str(path))
        admin.sendall(f"{words}\n".encode())
        parts = []
        while part := admin.recv(65536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
