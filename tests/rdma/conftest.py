"""What the tests on an RDMA device share: one start of each daemon, which emulated takes longer than most tests."""

import subprocess
import sys
from pathlib import Path

import pytest

import rfaas
from rfaas_transport import verbs
from support import functions as f
from support import verbs_peer
from support.invariants import event_log as event_log  # a fixture: pytest finds it by its name here
from support.over_rdma import TIMEOUT_S, address, serves
from support.personal import outliving_tests
from support.waiting import wait_until

LAST = tuple(Path(__file__).parent / name for name in ("test_c_client.py", "test_calls.py", "test_fabric.py"))
"""They share daemons, and executors that have a connection: the others count what the kernel has for this process."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LAST.index(item.path) if item.path in LAST else -1)


@pytest.fixture(autouse=True, scope="session")
def peer_over_pyverbs(request):
    """Before any test counts processes."""
    yield from verbs_peer.in_session(request.session)


@pytest.fixture(scope="session")
def daemons_are_read():
    """What daemons import was read from the disk once: in the guest that may last longer than they are waited for."""
    program = "import rfaas.session.__main__, rfaas_allocator.embedded, rfaas_executors.embedded"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=TIMEOUT_S)


@pytest.fixture(scope="session")
def personal(tmp_path_factory, daemons_are_read):
    """An allocator that outlives the tests, and agents that those start."""
    with outliving_tests(tmp_path_factory.mktemp("personal"), ttl_s=10.0, start_s=TIMEOUT_S) as made:
        made.start_allocator()
        yield made


@pytest.fixture(scope="session")
def to_another_host(personal):
    """With an agent that is reached over the network; a program in Python keeps its template and a session process."""
    personal.start_agent(3, 0.3, "--listen", address())
    with rfaas.Executor(1, allocator=personal.state_dir, transport="verbs") as executor:
        wait_until(lambda: serves(executor), TIMEOUT_S)
        yield personal


@pytest.fixture(scope="session")
def embedded(daemons_are_read):
    """Has an embedded session process and a template outlive the tests: emulated, those last less than their start."""
    with rfaas.Executor(1, allocator="embedded", transport="verbs") as executor:
        executor.submit(f.nothing).result(TIMEOUT_S)
        yield


@pytest.fixture(autouse=True, scope="module")
def device():
    """There is one; the ring takes a skip for a failure."""
    if problem := verbs.why_not():
        pytest.skip(f"no RDMA device: {problem}")
