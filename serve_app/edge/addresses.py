"""Which addresses count as one client."""

from __future__ import annotations

import ipaddress

IPV6_PREFIX = 64
"""Bits. One subscriber gets a whole /64 and may use any address in it (RFC 6177)."""


def client_network(address: str) -> str:
    """What limits per client count by: an IPv4 address itself, the /64 of an IPv6 address, and any other text unchanged."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_PREFIX), strict=False))


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine; False for text that is not an address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def is_own_address(host: str) -> bool:
    """Whether only this machine reaches what listens at a host: localhost, or an address of this machine alone."""
    return host.lower() == "localhost" or is_loopback(host)
