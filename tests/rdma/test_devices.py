"""`rfaas devices` and `rfaas doctor` on a host that has an RDMA device."""

import json
import os
import subprocess
import sys

import pytest

from rfaas.doctor.rdma import ask_pyverbs
from rfaas_transport import verbs

pytestmark = pytest.mark.rdma
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "").partition(":")[0]


def rfaas(*arguments):
    return subprocess.run([sys.executable, "-m", "rfaas", *arguments], capture_output=True, text=True, timeout=240)


def test_devices_lists_what_can_be_connected_to():
    done = rfaas("devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    listed = told["addresses"]
    active = [entry for entry in listed if entry["state"] == "active" and entry["gid"]]
    assert DEVICE in {entry["device"] for entry in active} or not DEVICE
    assert all(entry["max_queue_pairs"] > 0 and 256 <= entry["mtu_bytes"] <= entry["max_mtu_bytes"] for entry in listed)
    assert {device["name"] for device in told["devices"]} == {entry["device"] for entry in listed}
    assert all(limit > 0 for device in told["devices"] for limit in device["limits"].values())
    if address := os.environ.get("RFAAS_RDMA_ADDRESS"):
        assert address in {entry["address"] for entry in active}


@pytest.fixture(scope="module")
def findings():
    """Of `rfaas doctor`, by check."""
    return {finding["check"]: finding for finding in json.loads(rfaas("doctor", "--json").stdout)["findings"]}


def test_doctor_names_the_device(findings):
    assert DEVICE in findings["RDMA"]["text"]


def test_devices_are_told_to_people_with_what_they_can():
    done = rfaas("devices")
    assert (done.returncode, done.stderr) == (0, "")
    assert "queue pairs" in done.stdout
    assert f"\n{DEVICE or verbs.devices()[0].name}: firmware" in done.stdout


def test_pyverbs_of_the_system_says_the_same():
    """The second way, for an rfaas that was built without rdma-core."""
    told, own = ask_pyverbs(), {device.name: device for device in verbs.devices()}
    assert told is not None
    assert {device["name"] for device in told["devices"]} == set(own)
    for device in told["devices"]:
        assert device["limits"] == own[device["name"]].limits
        assert set(device["capabilities"]) <= set(own[device["name"]].capabilities)
    addresses = {(at.device, at.port, at.gid_index): at for at in verbs.addresses()}
    assert len(told["addresses"]) == len(addresses)
    for entry in told["addresses"]:
        at = addresses[entry["device"], entry["port"], entry["gid_index"]]
        assert bytes.fromhex(entry["gid"]) == at.gid
        same = (
            "state",
            "link_layer",
            "rate_gbps",
            "lid",
            "mtu_bytes",
            "max_mtu_bytes",
            "max_message_bytes",
            "gid_type",
        )
        assert {name: entry[name] for name in same} == {name: getattr(at, name) for name in same}


def test_doctor_knows_the_library_and_pyverbs(findings):
    assert (findings["rdma-core"]["severity"], findings["pyverbs"]["severity"]) == ("ok", "ok")
