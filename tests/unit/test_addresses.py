"""Limits per client count an IPv6 subscriber once."""

from __future__ import annotations

import pytest

from serve_app.edge.addresses import client_network, is_loopback


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a.socket", "a.socket"),
    ],
)
def test_the_network_of_an_address(address: str, network: str) -> None:
    assert client_network(address) == network


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.9", True), ("192.0.2.7", False), ("::2", False), ("", False)],
)
def test_what_is_of_this_machine(address: str, own: bool) -> None:
    assert is_loopback(address) is own
