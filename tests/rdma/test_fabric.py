"""A fabric that fails under channels and calls: a peer that answers nothing, a device that goes, a port down."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rfaas
from rfaas_transport import verbs
from rfaas_transport._core import Channel
from rfaas_transport.errors import ChannelBroken
from support import functions as f
from support.media import drain, read_exactly
from support.soak import SLACK
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
import json, os, signal, sys, time
import rfaas
from support import functions as f
from support.waiting import wait_until

begun, gate = sys.argv[1:]
with rfaas.Executor(1, allocator="embedded", transport="verbs") as executor:
    future = executor.submit(f.witness_then_wait, begun, gate)
    wait_until(lambda: os.path.exists(begun), 120)
    start_s = time.monotonic()
    os.kill(os.getpid(), signal.SIGUSR1)
    error = future.exception(120)
    told = {"error": type(error).__name__, "text": str(error), "hint": error.hint, "phase": error.phase}
    print(json.dumps(told | {"may_have_run": error.may_have_run, "took_s": time.monotonic() - start_s}))
"""


@pytest.mark.figures
def test_a_device_that_is_removed_under_a_call_is_a_typed_loss(tmp_path):
    library = tmp_path / "device_removed.so"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = SUPPORT / "device_removed.c"
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", library, source, "-ldl"], check=True, timeout=TIMEOUT_S)
    paths = os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", REMOVED, str(tmp_path / "begun"), str(tmp_path / "gate")]
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(f"removed device: told of in {told['took_s']:.2f} s: {told['text']}")
    assert (told["error"], told["phase"], told["may_have_run"]) == ("ConnectionLost", "STARTED", True)
    assert "failed or was removed" in told["text"]
    assert "rfaas devices" in told["text"]
    assert told["took_s"] < ANSWER_S * TIMES


if IN_GUEST:
    SHORT_S = 3.0  # less than the device goes on trying for
    EARLIEST_S, LATEST_S = 5.0, 10.0

    @pytest.fixture
    def veth():
        """Turns the network device below the soft-RoCE device up and down; up again afterwards."""

        def turn(state):
            subprocess.run([shutil.which("ip"), "link", "set", "veth0", state], check=True)
            wait_until(lambda: bool(verbs.why_no_port()) == (state == "down"), TIMEOUT_S, f"the port to be {state}")

        yield turn
        turn("up")

    @pytest.mark.figures
    def test_t20_a_fabric_that_is_away_for_a_while_costs_no_call_and_for_longer_is_a_typed_loss(veth, tmp_path):
        """And when it is back calls go over it again; nothing has run twice."""
        runs, gate = tmp_path / "runs", tmp_path / "gate"

        def n_runs():
            return len(runs.read_text().splitlines()) if runs.exists() else 0

        with rfaas.Executor(1, hot_for_s=0.05, allocator="embedded", transport="verbs") as executor:
            executor.submit(f.nothing).result(TIMEOUT_S)
            future = executor.submit(f.witness_then_wait, str(runs), str(gate))
            wait_until(lambda: n_runs() == 1, TIMEOUT_S)
            veth("down")
            start_s = time.monotonic()
            gate.touch()  # its result goes into the dark
            wait_until(lambda: time.monotonic() - start_s > SHORT_S, 2 * SHORT_S)
            assert not future.done()
            veth("up")
            assert future.result(TIMEOUT_S) == "done"

            gate.unlink()
            future = executor.submit(f.witness_then_wait, str(runs), str(gate))
            wait_until(lambda: n_runs() == 2, TIMEOUT_S)
            veth("down")
            start_s = time.monotonic()
            gate.touch()
            error = future.exception(GIVEN_UP_S)
            took_s = time.monotonic() - start_s
            print(f"fabric away: {SHORT_S:g} s: no call failed; for good: told of in {took_s:.1f} s: {error}")
            assert (type(error), error.may_have_run) == (rfaas.ConnectionLost, True)
            assert error.phase in ("STARTED", "DONE")
            assert EARLIEST_S <= took_s <= LATEST_S * SLACK
            veth("up")
            assert executor.submit(f.add, 1, 2).result(TIMEOUT_S) == 3
            assert n_runs() == 2
