"""`rfaas devices` and `rfaas doctor` on a host that has an RDMA device."""

import json
import os
import subprocess
import sys

import pytest

from rfaas_transport import verbs

pytestmark = pytest.mark.rdma
DEVICE = os.environ.get("RFAAS_RDMA_DEVICE", "").partition(":")[0]


@pytest.fixture(autouse=True, scope="module")
def device():
    if problem := verbs.why_not():
        pytest.skip(f"no RDMA device: {problem}")


def rfaas(*arguments):
    return subprocess.run([sys.executable, "-m", "rfaas", *arguments], capture_output=True, text=True, timeout=240)


def test_devices_lists_what_can_be_connected_to():
    done = rfaas("devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)["addresses"]
    active = [entry for entry in listed if entry["state"] == "active" and entry["gid"]]
    assert DEVICE in {entry["device"] for entry in active} or not DEVICE
    assert all(entry["max_queue_pairs"] > 0 and entry["mtu_bytes"] >= 256 for entry in listed)
    if address := os.environ.get("RFAAS_RDMA_ADDRESS"):
        assert address in {entry["address"] for entry in active}


def test_doctor_names_the_device():
    done = rfaas("doctor", "--json")
    finding = next(found for found in json.loads(done.stdout)["findings"] if found["check"] == "RDMA")
    assert DEVICE in finding["text"]
