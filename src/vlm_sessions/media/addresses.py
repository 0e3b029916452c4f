"""Which network addresses an image may be fetched from.

A client names the URL, the service opens the connection: without this guard, anyone who may ask a
question may also read what only this machine can reach (server-side request forgery), such as the
cloud's metadata service at 169.254.169.254.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, deprecated
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
# Not all Python versions count these as private.
_REFUSED: tuple[IPNetwork, ...] = (
    ipaddress.IPv4Network("100.64.0.0/10"),  # shared address space, RFC 6598
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's platform address, public by its number
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments, RFC 6890; a cloud's metadata
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, RFC 7526
    ipaddress.IPv6Network("3fff::/20"),  # documentation, RFC 9637
    ipaddress.IPv6Network("fec0::/10"),  # site-local, RFC 3879
    _NAT64_LOCAL,
)


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Public addresses, and those that the operator has allowed by host name or network."""

    hosts: frozenset[str]
    """Lower case; such a name may resolve to any address."""
    networks: tuple[IPNetwork, ...]

    @classmethod
    def from_allow_list(cls, allowed: Iterable[str]) -> FetchPolicy:
        """Read ``Settings.fetch_allow``: host names, addresses and CIDR blocks."""
        hosts: set[str] = set()
        networks: list[IPNetwork] = []
        for entry in allowed:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                hosts.add(normalise_host(entry))
        return cls(frozenset(hosts), tuple(networks))

    def allows(self, host: str, address: str) -> bool:
        """Whether ``host``, which resolved to ``address``, may be connected to at that address."""
        if normalise_host(host) in self.hosts:
            return True
        try:
            candidate = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        embedded = embedded_addresses(candidate)
        # A NAT64 gateway is as public as what stands behind it; other disguises are not needed.
        every = embedded if candidate in _NAT64 else (candidate, *embedded)
        if any(one in network for one in every for network in self.networks):
            return True
        return all(is_public(one) for one in every)


def normalise_host(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def is_public(address: IPAddress) -> bool:
    """Whether the address belongs to the public internet, looked at without what it embeds."""
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _is_isatap(address: ipaddress.IPv6Address) -> bool:
    """By its interface identifier, whatever the network (RFC 5214, 6.1)."""
    return (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP


def embedded_addresses(address: IPAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """IPv4 addresses behind this one: mapped, 6to4, Teredo, NAT64, ISATAP."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[ipaddress.IPv4Address] = []
    if address.ipv4_mapped is not None:
        found.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    if address in _NAT64 or address in _IPV4_COMPATIBLE or _is_isatap(address):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return tuple(found)
