"""Two hosts with a device and a network of their own each: `make test-rdma-two-hosts` makes them of one guest.

The other is a network namespace that RDMA_PEER_NETNS names; its device is reached by the address of a TCP
connection alone, as it is on a cluster.
"""

import os
import platform
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfaas_transport import verbs
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken, ChannelClosed
from rfaas_transport.frame import Kind
from support.media import drain
from support.network_cuts import BOTH, FROM_HERE, FROM_THERE, Cut
from support.soak import percentile, scaled
from support.verbs_objects import kernel_objects
from support.verbs_peer import PeerProcess
from support.waiting import wait_until

pytestmark = [pytest.mark.rdma, pytest.mark.two_hosts]
NETNS, DEVICE = os.environ.get("RDMA_PEER_NETNS", ""), os.environ.get("RDMA_PEER_DEVICE", "")
ADDRESS = os.environ.get("RDMA_PEER_ADDRESS", "")
THERE = ["ip", "netns", "exec", NETNS]
FRAMES = scaled(500, 5000)
DEVICE_GIVES_UP_S = 34.0  # at most, spec 007 section 4; soft-RoCE, which waits for one time-out each time: 7.5
TIMES = 10  # emulated CPUs


@pytest.fixture(scope="module", autouse=True)
def two_hosts():
    if not NETNS:
        pytest.skip("no second host: make test-rdma-two-hosts")


@pytest.fixture
def other():
    """The echoing process on the other host; returns it and its port."""
    command = [*THERE, sys.executable, str(Path(__file__).with_name("echo.py")), ADDRESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture
def channel(other):
    sock = socket.create_connection((ADDRESS, other[1]), 20)
    sock.settimeout(None)
    with Channel.from_verbs(sock.detach()) as made:
        yield made


def there_and_back(channel, payload, call_id=1):
    channel.send(Kind.DEFINE, call_id=call_id, segments=[payload])
    while (frame := channel.poll()) is None:
        assert channel.wait(60.0)
    assert (frame.call_id, bytes(frame.segments[0])) == (call_id, payload)


@pytest.mark.figures
def test_each_host_has_its_own_device():
    here = {at.shown(): at.device for at in verbs.addresses() if at.is_active}
    print(f"two hosts: {here['10.77.0.1']} and {DEVICE}, Linux {platform.release()}")
    assert here["10.77.0.1"] != DEVICE


@pytest.mark.figures
def test_frames_go_there_and_back(channel):
    rng = random.Random(1)
    for size in (0, 1, 960, 961, 65_536, 300_000, 3_000_000):
        there_and_back(channel, rng.randbytes(size))
    times_s = []
    for call_id in range(FRAMES):
        start_s = time.perf_counter()
        there_and_back(channel, b"x" * 64, call_id)
        times_s.append(time.perf_counter() - start_s)
    print(f"two hosts, 64 bytes there and back, both asleep: median {percentile(times_s, 50) * 1e6:.0f} us of {FRAMES}")


def test_the_peer_over_pyverbs_is_the_other_host():
    peer = PeerProcess(DEVICE, THERE)
    try:
        ours, theirs = socket.socketpair()
        near, far = socket.socketpair()
        peer.ask("bridge", theirs, far)
        with Channel.from_verbs(ours.detach(), device="rxe0") as left, Channel.from_fd(near.detach()) as right:
            payload = random.Random(2).randbytes(500_000)
            for sender, receiver in ((left, right), (right, left)):
                sender.send(Kind.RESULT, segments=[payload])

                def arrived(sender=sender, receiver=receiver):
                    assert sender.poll() is None
                    return receiver.poll()

                assert wait_until(arrived, 60).segments[0] == payload
            left.close()
            assert isinstance(drain(right)[1], ChannelClosed)
    finally:
        peer.stop()


@pytest.mark.figures
def test_a_killed_peer_on_the_other_host_is_noticed(other, channel):
    there_and_back(channel, b"up")
    subprocess.run(["kill", "-9", str(other[0].pid)], check=True)
    start_s = time.monotonic()
    _, error = drain(channel, 60)
    print(f"two hosts, killed peer: told of in {time.monotonic() - start_s:.2f} s")
    assert isinstance(error, ChannelBroken)
    assert time.monotonic() - start_s < TIMES


@pytest.mark.figures
@pytest.mark.parametrize(
    ("way", "why"), [(BOTH, "is down"), (FROM_HERE, "does not answer"), (FROM_THERE, "does not answer")]
)
def test_a_network_that_is_cut_is_noticed_by_the_next_write_and_a_new_connection_works_later(other, channel, way, why):
    before = kernel_objects()
    there_and_back(channel, b"up")
    cut = Cut(NETNS)
    cut.begin(way)
    try:
        channel.send(Kind.RESULT, segments=[b"into the dark"])
        start_s = time.monotonic()
        _, error = drain(channel, 2 * DEVICE_GIVES_UP_S)
        took_s = time.monotonic() - start_s
        print(
            f"two hosts, network cut ({way}): told of in {took_s:.2f} s (the device gives up by {DEVICE_GIVES_UP_S} s)"
        )
        assert isinstance(error, ChannelBroken)
        assert why in str(error)
        assert took_s < DEVICE_GIVES_UP_S * 1.5
        channel.close()
    finally:
        cut.heal()
    assert kernel_objects()["qp"] == before["qp"] - 1

    def works_again():
        try:
            sock = socket.create_connection((ADDRESS, other[1]), 5)
        except OSError:
            return False
        sock.settimeout(None)
        with Channel.from_verbs(sock.detach()) as again:
            there_and_back(again, b"back")
        return True

    wait_until(works_again, 60)
