"""Which address of this host an interface or a network means."""

import socket

import pytest

from rfaas.control.route import ipv4_addresses, names_no_host, own_address
from rfaas_transport.errors import ConfigError


def test_the_loopback_is_found_by_its_name_and_its_network():
    assert ("lo", "127.0.0.1") in ipv4_addresses()
    for wish in ("lo", "127.0.0.0/8", "127.0.0.1/32"):
        assert own_address(wish, name="x") == "127.0.0.1"
        assert names_no_host(wish)


def test_addresses_and_host_names_stay_as_they_are():
    for wish in ("10.1.2.3", "head", "::1"):
        assert own_address(wish, name="x") == wish
        assert not names_no_host(wish)


def test_every_address_is_one_that_can_be_bound():
    for _, address in ipv4_addresses():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))


@pytest.mark.parametrize(
    ("wish", "problem"), [("203.0.113.0/24", "no address in 203.0.113.0/24"), ("10.1.0.0/99", "is no network")]
)
def test_what_this_host_does_not_have_is_said_with_what_it_has(wish, problem):
    with pytest.raises(ConfigError, match=problem) as raised:
        own_address(wish, name="agent.listen")
    assert "agent.listen" in str(raised.value)
    assert raised.value.hint
