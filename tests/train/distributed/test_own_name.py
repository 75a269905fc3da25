"""A machine whose own name is a loopback address, which gloo would give to the others."""

import socket

import pytest

from train.distributed import own_name
from train.distributed.exit_codes import Refused
from train.distributed.own_name import check_own_name


@pytest.fixture
def named(monkeypatch):
    """Return a function that gives this machine's own name addresses, or none."""

    def name(*addresses):
        def resolve(host, port, *_, **__):
            if host != "gpu07" or not addresses:
                raise socket.gaierror("unknown")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "gethostname", lambda: "gpu07")
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(own_name, "interface_to", lambda host: "bond0")
        monkeypatch.delenv(own_name.GLOO, raising=False)

    return name


@pytest.mark.parametrize(
    ("addresses", "said"), [(["127.0.1.1"], "is 127.0.1.1"), ([], "has no address"), (["192.0.2.1"], "has no address")]
)
def test_a_name_that_others_cannot_reach_is_reported(addresses, said, named, monkeypatch):
    named(*addresses)
    with pytest.raises(Refused, match=rf"on gpu07 its own name {said}, .* set GLOO_SOCKET_IFNAME=bond0 "):
        check_own_name("gpu01")
    monkeypatch.setenv(own_name.GLOO, "bond0")
    check_own_name("gpu01")


def test_a_name_with_an_address_of_this_machine_is_accepted(named, monkeypatch):
    named("0.0.0.0")  # any address of this machine, which can be bound everywhere
    check_own_name("gpu01")


def test_the_interface_has_the_address_from_which_the_master_is_reached(monkeypatch):
    class Item:
        family, address = socket.AF_INET, "127.0.0.1"

    monkeypatch.setattr(own_name.psutil, "net_if_addrs", lambda: {"lo": [], "ib0": [Item], "eth0": []})
    assert own_name.interface_to("127.0.0.1") == "ib0"
