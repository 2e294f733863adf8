"""What the tests on an RDMA device share."""

import pytest

from rfaas_transport import verbs
from support import verbs_peer


@pytest.fixture(autouse=True, scope="session")
def peer_over_pyverbs(request):
    """Before any test counts processes."""
    yield from verbs_peer.in_session(request.session)


@pytest.fixture(autouse=True, scope="module")
def device():
    """There is one; the ring takes a skip for a failure."""
    if problem := verbs.why_not():
        pytest.skip(f"no RDMA device: {problem}")
