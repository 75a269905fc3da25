"""The address at which gloo listens: that of this machine's own name, which other machines must reach.

Debian and its relatives give the own name 127.0.1.1 in /etc/hosts. Other machines that get this address connect to
themselves, and everybody waits for everybody.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import closing, suppress

import psutil

from train.distributed.exit_codes import Refused

GLOO = "GLOO_SOCKET_IFNAME"


def check_own_name(master: str) -> None:
    """Raise Refused, naming the variable to set, if other machines cannot reach the address of this one's name.

    `master`: where the ranks meet.
    """
    if os.environ.get(GLOO):
        return
    name = socket.gethostname()
    address = _listens_at(name)
    if address is not None and not ipaddress.ip_address(address).is_loopback:
        return
    at = "has no address" if address is None else f"is {address}"
    raise Refused(
        f"on {name} its own name {at}, where other machines cannot connect: set {GLOO}={interface_to(master)} "
        f"(+cluster.environment.{GLOO}=... with pdpc launch), or give {name} its real address in /etc/hosts"
    )


def _listens_at(name: str) -> str | None:
    """Return the first address of a name at which this machine can listen, as gloo chooses it; None: no address."""
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, kind, _, _, place in found:
        with suppress(OSError), closing(socket.socket(family, kind)) as trial:
            trial.bind(place)
            return str(place[0]).partition("%")[0]
    return None


def interface_to(host: str) -> str:
    """Return the network interface that leads to another machine, or that has the address of this one."""
    own = {
        item.address: name
        for name, items in psutil.net_if_addrs().items()
        for item in items
        if item.family in (socket.AF_INET, socket.AF_INET6) and name != "lo"
    }
    with suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with closing(socket.socket(family, kind)) as trial:
                trial.connect(place)  # a datagram socket: nothing is sent
                source = str(trial.getsockname()[0])
                if source in own:
                    return own[source]
    return next(iter(own.values()), "eth0")
