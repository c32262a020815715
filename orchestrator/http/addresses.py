"""Where other nodes reach this one, made from where it listens.

To change it: what is returned goes into the registration, and another node puts it behind `http://` as it is.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

_FAR_AWAY: Final = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}
"""Addresses for documentation (RFC 5737, RFC 3849): nothing is there, and nothing is sent."""
_ANY_PORT: Final = 9


def reachable_address(bound: str) -> str:
    """Return `host:port` by which other machines reach a node that is bound to that one.

    Bound to one address, it is that. Bound to all, it is the one that the kernel would use to reach out: in a container
    on ECS with `awsvpc` networking that of the task's own interface. Where there is no way out, the host's name.
    """
    host, _, port = bound.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return bound
    return authority(_own_address(address.version), int(port)) if address.is_unspecified else bound


def authority(host: str, port: int) -> str:
    """Return `host:port` as it stands in a URL: an IPv6 address goes in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_address(version: int) -> str:
    family, far_away = _FAR_AWAY[version]
    try:
        # To connect a datagram socket sends nothing: it asks the routing table which address of ours would speak.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far_away, _ANY_PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
