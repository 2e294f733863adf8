"""What the tests on an RDMA device share."""

import pytest

from support import verbs_peer


@pytest.fixture(autouse=True, scope="session")
def peer_over_pyverbs(request):
    """Before any test counts processes."""
    yield from verbs_peer.in_session(request.session)
