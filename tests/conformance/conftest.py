"""One suite over every medium: a test that asks for `pair` runs on each."""

import gc
import os

import pytest

from support import verbs_peer
from support.media import EACH_MEDIUM, MEDIA, STREAMS


@pytest.fixture(autouse=True, scope="session")
def peer_over_pyverbs(request):
    """Before any test counts descriptors and processes."""
    yield from verbs_peer.in_session(request.session)


@pytest.fixture(autouse=True)
def no_descriptor_is_left():
    before = set(
        os.listdir("/proc/self/fd")
    )  # some may go meanwhile: an earlier test's, in a cycle that is collected now
    yield
    if not set(os.listdir("/proc/self/fd")) <= before:
        gc.collect()  # what only a cycle, as in a traceback, still holds is not left behind
    assert set(os.listdir("/proc/self/fd")) - before == set()


@pytest.fixture(params=EACH_MEDIUM)
def medium(request):
    return request.param


@pytest.fixture
def make_pair(medium):
    """Makes connected channels and closes them after the test."""
    made = []

    def make(**options):
        left, right = MEDIA[medium](**options)
        made.extend((left, right))
        return left, right

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def pair(make_pair):
    return make_pair()


@pytest.fixture(params=STREAMS)
def sockets(request):
    """Connected blocking sockets of each stream medium."""
    left, right = STREAMS[request.param]()
    with left, right:
        left.settimeout(20)
        right.settimeout(20)
        yield left, right
