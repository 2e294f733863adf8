"""What is said of RDMA without a device: addresses as people write them, reasons, and the command's answer."""

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rfaas.cli.devices import devices
from rfaas.doctor import host, rdma
from rfaas_transport import verbs
from rfaas_transport.errors import ConfigError
from support.verbs_messages import MESSAGE_BYTES, REFUSED, kind_of, text_of

HAS_DEVICES = any(Path("/sys/class/infiniband").glob("*"))


def address(gid=b"", **changes):
    fields = dict.fromkeys(verbs.Address.__dataclass_fields__, 0)
    return verbs.Address(**fields | {"device": "x0", "state": "active", "gid": gid} | changes)


@pytest.mark.parametrize(
    ("gid", "shown"),
    [
        (b"", "-"),
        (bytes(10) + b"\xff\xff\x0a\x4d\x00\x01", "10.77.0.1"),
        (bytes.fromhex("fe80000000000000cc5e08fffe5575d5"), "fe80::cc5e:8ff:fe55:75d5"),
    ],
)
def test_an_address_is_shown_as_people_write_it(gid, shown):
    assert address(gid).shown() == shown


def test_only_an_active_port_is_active():
    assert [address(state=state).is_active for state in ("active", "down", "initialised")] == [True, False, False]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, verbs.NO_DEVICE),
        ({"mlx5_0/ports/1": "1: DOWN"}, verbs.NO_PORT),
        ({"mlx5_0/ports/1": "1: DOWN", "mlx5_1/ports/2": "4: ACTIVE"}, ""),
        ({"mlx5_0/ports/1": "5: ACTIVE_DEFER"}, verbs.NO_PORT),
    ],
)
def test_the_kernel_says_whether_a_port_is_up(tmp_path, states, said):
    for port, state in states.items():
        (tmp_path / port).mkdir(parents=True)
        (tmp_path / port / "state").write_text(f"{state}\n")
    assert verbs.why_no_port(tmp_path) == said
    assert verbs.why_no_port(tmp_path / "nothing") == verbs.NO_DEVICE


def test_a_side_without_the_library_tells_its_peer_in_the_words_of_the_specification(monkeypatch):
    monkeypatch.setattr(verbs, "_why_not_loaded", lambda: "libibverbs can't be loaded: " + "é" * 200)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ConfigError, match="libibverbs"):
            verbs.adopt(ours.fileno())
        message = theirs.recv(1024)
        assert (len(message), kind_of(message)) == (MESSAGE_BYTES, REFUSED)
        assert text_of(message).startswith("RDMA can't be used here: libibverbs can't be loaded: éé")
        ours.getpeername()  # the socket stays the caller's


def test_without_a_device_everybody_says_so():
    if HAS_DEVICES and verbs.is_built():
        assert verbs.addresses()
        return
    problem = verbs.why_not()
    assert problem
    with pytest.raises(ConfigError, match="RDMA can't be used here") as raised:
        verbs.require()
    assert problem in str(raised.value)
    assert raised.value.hint
    done = CliRunner().invoke(devices)
    assert done.exit_code != 0
    assert "RDMA" in done.output or "rdma-core" in done.output


@pytest.mark.parametrize(("found", "severity"), [([], "info"), (["mlx5_0", "mlx5_1"], "warning")])
def test_an_rfaas_without_rdma_warns_where_there_are_devices(monkeypatch, found, severity):
    """A warning is shown with its remedy; who has no device has nothing to do."""
    monkeypatch.setattr(verbs, "is_built", lambda: False)
    monkeypatch.setattr(host, "_rdma_devices", lambda: found)
    [finding] = host.rdma()
    assert (finding.check, finding.severity) == ("RDMA", severity)
    assert finding.text.endswith("rfaas was built without rdma-core")
    assert all(name in finding.text for name in found)
    assert "libibverbs-dev" in finding.remedy


def test_a_pyverbs_of_another_release_is_told_with_the_remedy():
    error = "/lib/libibverbs.so.1: version `IBVERBS_PRIVATE_59' not found (required by device.abi3.so)"
    found = rdma._does_not_load("/venv/bin/python", error)
    assert found.severity == "warning"
    assert "built for rdma-core 59" in found.text
    assert "/venv/bin/python -m pip uninstall pyverbs" in found.remedy
    other = rdma._does_not_load("/venv/bin/python", "cannot import name 'enums'")
    assert (other.severity, "enums" in other.text, bool(other.remedy)) == ("info", True, True)


def test_an_interpreter_without_pyverbs_says_so_and_one_that_is_not_there_nothing():
    assert rdma.ask_pyverbs("/nonexistent/python") is None
    answer = rdma.ask_pyverbs(sys.executable)
    assert answer is not None
    assert answer.get("absent", "devices" in answer or "error" in answer)
