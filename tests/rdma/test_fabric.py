"""A fabric that fails under channels and calls: a peer that answers nothing, a device that goes, a port down."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import rfaas
from rfaas_transport import verbs
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken
from support import functions as f
from support.deadlines import SLACK
from support.media import drain, read_exactly
from support.verbs_messages import CONNECTED, MESSAGE_BYTES, address_message, address_of, encode, kind_of
from support.waiting import wait_until

pytestmark = pytest.mark.rdma
IN_GUEST = bool(os.environ.get("RFAAS_RDMA_GUEST"))
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "")
SUPPORT = Path(__file__).parents[1] / "support"
GIVEN_UP_S = 60.0  # eight times 1.1 s, of which devices may make four times as much
TIMEOUT_S = 120.0
ANSWER_S = 1.0  # the goal for what is told of a failure
TIMES = 10 if IN_GUEST else SLACK  # emulated CPUs


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


REMOVED = """
import json, sys, time
import rfaas
from support import functions as f

with rfaas.Executor(1, allocator="embedded", transport="verbs") as executor:
    error = executor.submit(f.witness_then_wait, *sys.argv[1:]).exception()
    told = {"error": type(error).__name__, "text": str(error), "phase": error.phase}
    print(json.dumps(told | {"may_have_run": error.may_have_run, "at_s": time.monotonic()}), flush=True)
"""


if IN_GUEST:
    LATEST_S = 10.0

    @pytest.fixture
    def veth():
        """Turns the network device below the soft-RoCE device up and down; up again afterwards."""

        def turn(state):
            subprocess.run([shutil.which("ip"), "link", "set", "veth0", state], check=True)
            wait_until(lambda: bool(verbs.why_no_port()) == (state == "down"), TIMEOUT_S, f"the port to be {state}")

        yield turn
        turn("up")

    @pytest.mark.figures
    def test_t20_a_port_that_goes_down_under_a_call_is_a_typed_loss_and_it_serves_again_later(veth, embedded, tmp_path):
        """A fabric that is away for a moment, which costs no call, needs a second device: test_two_hosts_calls.py."""
        runs, gate = tmp_path / "runs", tmp_path / "gate"
        with rfaas.Executor(1, hot_for_s=0.05, allocator="embedded", transport="verbs") as executor:
            future = executor.submit(f.witness_then_wait, str(runs), str(gate))
            wait_until(runs.exists, TIMEOUT_S)
            veth("down")
            start_s = time.monotonic()
            gate.touch()  # its result goes into the dark
            error = future.exception(GIVEN_UP_S)
            took_s = time.monotonic() - start_s
            print(f"port down under a call: told of in {took_s:.1f} s: {error}")
            assert (type(error), error.may_have_run) == (rfaas.ConnectionLost, True)
            assert error.phase in ("STARTED", "DONE")
            assert took_s <= LATEST_S * SLACK
            veth("up")
            assert executor.submit(f.add, 1, 2).result(TIMEOUT_S) == 3
            assert len(runs.read_text().splitlines()) == 1

    def test_borrowed_memory_outlives_a_port_that_is_down_when_its_lender_is_dialled_again(veth, embedded, caplog):
        def is_dialled_in_vain():
            return any("no RDMA" in record.getMessage() for record in caplog.records)

        caplog.set_level("INFO")
        wishes = {"allocator": "embedded", "transport": "verbs", "acquire_timeout_s": TIMEOUT_S}
        with rfaas.RemoteMemory("1MiB", **wishes) as memory, ThreadPoolExecutor(1) as pool:
            memory.write(5, b"kept")
            veth("down")
            reading = pool.submit(memory.read, 5, 4)
            wait_until(lambda: is_dialled_in_vain() or reading.done(), GIVEN_UP_S, "the first attempt")
            veth("up")
            assert reading.result(GIVEN_UP_S) == b"kept"
            assert is_dialled_in_vain()
            assert memory.medium == "verbs"

    def test_a_port_that_goes_down_is_the_reason_that_is_given(veth):
        left, right = connected()
        with left, right:
            veth("down")
            left.send(96, segments=[b"too late"])
            frames, error = drain(left, GIVEN_UP_S)
            assert frames == []
            assert isinstance(error, ChannelBroken)
            assert "is down" in str(error)

    @pytest.mark.figures
    def test_a_device_that_is_removed_under_a_call_is_a_typed_loss(veth, tmp_path):
        begun, library = tmp_path / "begun", tmp_path / "device_removed.so"
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        build = [os.environ.get("CC", "cc"), *flags, "-o", str(library), str(SUPPORT / "device_removed.c"), "-ldl"]
        subprocess.run(build, check=True, timeout=TIMEOUT_S)
        paths = os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-c", REMOVED, str(begun), str(tmp_path / "gate")]
        environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
            try:
                wait_until(begun.exists, TIMEOUT_S)
                start_s = time.monotonic()
                veth("down")
                told = json.loads(program.communicate(timeout=TIMEOUT_S)[0])
            finally:
                program.kill()
        took_s = told["at_s"] - start_s
        print(f"removed device: told of in {took_s:.2f} s: {told['text']}")
        assert (told["error"], told["may_have_run"]) == ("ConnectionLost", True)
        assert told["phase"] in ("SENT", "STARTED")  # the first where the agent's word comes after two seconds
        assert "failed or was removed (rfaas devices" in told["text"]
        assert took_s < ANSWER_S * TIMES
