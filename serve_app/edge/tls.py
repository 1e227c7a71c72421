"""HTTPS at HAProxy: one file with certificate and key for it, and a renewed certificate without cutting a connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from deployments.errors import MotetError, fail
from serve_app.edge import haproxy_sessions
from serve_app.edge.haproxy_sessions import ADMIN_SOCKET
from serve_app.edge.settings import TlsSettings

PEM = "tls.pem"
"""The name of the file for HAProxy, beside its configuration. It has the private key."""
FileState = tuple[int, int]


def check(tls: TlsSettings) -> None:
    """Raises `MotetError` (invalid) unless the files are a certificate and its key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*_paths(tls), password=_no_password)
    except ssl.SSLError as error:
        cause = (
            f"edge.tls: {tls.certificate} and {tls.key} are not a certificate and its key ({error.reason or error})."
        )
        raise fail("invalid", cause, "Name PEM files: the certificate with its issuers, and its key.") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the key has a password"
        raise fail("invalid", f"edge.tls: the files cannot be used: {why}.", "Check their paths and rights.") from error


def write_pem(folder: Path, tls: TlsSettings) -> Path:
    """Writes the file for HAProxy, which only the service's user can read. Raises `OSError`."""
    path, unfinished = folder / PEM, folder / f".{PEM}"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_combined(tls))
    return unfinished.replace(path)


def renew(folder: Path, tls: TlsSettings) -> None:
    """Gives every HAProxy with files below `folder` the certificate that the files have now. Open connections keep the old
    one. Raises `MotetError` (invalid, or unavailable if no HAProxy has taken it) and `OSError`."""
    check(tls)
    fronts = list(folder.glob(f"*/{ADMIN_SOCKET}"))
    if not fronts:
        raise fail("unavailable", "No HAProxy of this service runs here.")
    failures = []
    for admin in fronts:  # one that does not answer keeps no other from it
        try:
            _renew_one(admin, write_pem(admin.parent, tls))
        except (OSError, MotetError) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _renew_one(admin: Path, pem: Path) -> None:
    """Gives one HAProxy the certificate in a file. It has it once the answers to both commands say so."""
    for words, success in (
        (f"set ssl cert {pem} <<\n{pem.read_text()}", "Transaction "),
        (f"commit ssl cert {pem}", "Success"),
    ):
        answer = haproxy_sessions.command(admin, words).strip()
        if success not in answer:
            with suppress(OSError):
                haproxy_sessions.command(admin, f"abort ssl cert {pem}")
            raise fail("unavailable", f"HAProxy refused the certificate: {answer or 'it said nothing'}")


class CertificateWatch:
    """Gives HAProxy a certificate that was renewed."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._used = _states(tls)

    def renew(self, folder: Path) -> bool:
        """Gives the files to every HAProxy below `folder` if they have changed since they were used last. False if they have
        not, or while one cannot be read. Raises as `renew` of this module does; the next call tries again."""
        now = _states(self._tls)
        if now == self._used or None in now:
            return False
        renew(folder, self._tls)
        self._used = now
        return True


def _paths(tls: TlsSettings) -> tuple[Path, Path]:
    return Path(tls.certificate).expanduser(), Path(tls.key).expanduser()


def _no_password() -> str:
    raise ValueError


def _combined(tls: TlsSettings) -> str:
    """Certificate and key as HAProxy reads them. Its commands end at an empty line."""
    return "\n".join(line for path in _paths(tls) for line in _lines(path)) + "\n"


def _lines(path: Path) -> Iterator[str]:
    yield from (line.rstrip() for line in path.read_text().splitlines() if line.strip())


def _states(tls: TlsSettings) -> tuple[FileState | None, ...]:
    """What tells whether each file has changed; None for one that cannot be read."""
    return tuple(map(_state, _paths(tls)))


def _state(path: Path) -> FileState | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_ino
