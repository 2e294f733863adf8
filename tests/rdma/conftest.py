"""What the tests on an RDMA device share."""

import subprocess
import sys

import pytest

from rfaas_transport import verbs
from support import verbs_peer
from support.invariants import event_log as event_log  # a fixture: pytest finds it by its name here


@pytest.fixture(autouse=True, scope="session")
def peer_over_pyverbs(request):
    """Before any test counts processes."""
    yield from verbs_peer.in_session(request.session)


@pytest.fixture(scope="session")
def daemons_are_read():
    """What daemons import was read from the disk once: in the guest that may last longer than they are waited for."""
    program = "import rfaas.session.__main__, rfaas_allocator.embedded, rfaas_executors.embedded"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.fixture(autouse=True, scope="module")
def device():
    """There is one; the ring takes a skip for a failure."""
    if problem := verbs.why_not():
        pytest.skip(f"no RDMA device: {problem}")
