"""Runs the bridge until it is told to end."""

from __future__ import annotations

from urllib.parse import urlsplit

from wyoming.server import AsyncServer, AsyncTcpServer

from deployments.errors import fail
from serve_app.wyoming.connection import Bridge
from serve_app.wyoming.remote_service import RemoteService


def server_at(address: str) -> AsyncServer:
    """Wyoming's server for an address such as tcp://0.0.0.0:10300. Raises `MotetError` (invalid) for others."""
    try:
        if urlsplit(address).scheme in ("tcp", "unix"):
            return AsyncServer.from_uri(address)
    except ValueError:
        pass
    cause = f"{address!r} is not an address to listen at."
    raise fail("invalid", cause, "Write tcp://0.0.0.0:10300 or unix:///run/motet.sock.")


async def run(server: AsyncServer, service: RemoteService, *, announced: bool) -> None:
    """Serves until SIGTERM or cancellation. An `announced` TCP server is found by Home Assistant with zeroconf.

    Raises `MotetError` (unavailable) without the package `zeroconf`, and OSError for an address that is taken.
    """
    try:
        if announced:
            await announce(server)
        await server.run(Bridge(service).connection)
    finally:
        await service.close()


async def announce(server: AsyncServer) -> None:
    """Registers the server in the local network. Raises `MotetError`."""
    if not isinstance(server, AsyncTcpServer):
        raise fail("invalid", "--zeroconf announces a TCP port.", "Listen at tcp://, or leave --zeroconf out.")
    try:
        from wyoming.zeroconf import HomeAssistantZeroconf
    except ImportError as error:
        raise fail("unavailable", "--zeroconf needs a library.", "pip install zeroconf") from error
    host = None if server.host in ("0.0.0.0", "") else server.host
    await HomeAssistantZeroconf(server.port, name="motet", host=host).register_server()
