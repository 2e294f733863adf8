"""A fabric that fails: a peer that answers nothing, a port that goes down (in the guest only).

A device can't be removed under its users there: soft-RoCE waits until the last of them has gone.
"""

import os
import shutil
import socket
import subprocess
import time

import pytest

from rfaas_transport import verbs
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken
from support.media import drain, read_exactly
from support.verbs_messages import CONNECTED, MESSAGE_BYTES, address_message, address_of, encode, kind_of
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "")
GIVEN_UP_S = 60.0  # eight times 1.1 s, of which devices may make four times as much
TIMEOUT_S = 120.0


def connected():
    left, right = (Channel.from_verbs(sock.detach(), device=DEVICE) for sock in socket.socketpair())
    for channel in (right, left, right):
        assert channel.wait(TIMEOUT_S)
        assert channel.poll() is None
    return left, right


def test_a_peer_whose_queue_pair_answers_nothing_is_given_up_with_the_reason():
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with theirs, Channel.from_verbs(ours.detach(), device=DEVICE) as channel:
        address = address_of(read_exactly(theirs, MESSAGE_BYTES))
        theirs.sendall(address_message(address._replace(queue_pair=address.queue_pair ^ 0x8000)))  # nobody's
        assert channel.wait(20)
        channel.poll()
        assert kind_of(read_exactly(theirs, MESSAGE_BYTES)) == CONNECTED
        theirs.sendall(encode(CONNECTED))
        channel.send(96, segments=[b"to nobody"])
        start_s = time.monotonic()
        frames, error = drain(channel, GIVEN_UP_S)
        assert frames == []
        assert isinstance(error, ChannelBroken)
        assert "the peer's RDMA device does not answer" in str(error)
        print(f"given up after {time.monotonic() - start_s:.1f} s")


if IN_GUEST:

    def run(*command):
        subprocess.run([shutil.which(command[0]), *command[1:]], check=True)

    @pytest.fixture
    def veth():
        """Turns the network device below the soft-RoCE device up and down; up again afterwards."""
        yield lambda state: run("ip", "link", "set", "veth0", state)
        run("ip", "link", "set", "veth0", "up")
        wait_until(lambda: not verbs.why_no_port(), TIMEOUT_S, "the port to be up")

    def test_a_port_that_goes_down_is_the_reason_that_is_given(veth):
        left, right = connected()
        with left, right:
            veth("down")
            wait_until(verbs.why_no_port, TIMEOUT_S, "the port to be down")
            left.send(96, segments=[b"too late"])
            frames, error = drain(left, GIVEN_UP_S)
            assert frames == []
            assert isinstance(error, ChannelBroken)
            assert "is down" in str(error)
