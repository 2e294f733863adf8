"""The cores that tests of the client begin with."""

import pytest
from unit.client.played import Client, only

from rfaas.client.effects import Dispatch


@pytest.fixture
def client():
    client = Client()
    client.join()
    return client


@pytest.fixture
def running(client):
    """A client with one call on channel 1."""
    client.worker(1)
    call, effects = client.submit()
    assert only(effects, Dispatch).channel == 1
    return client, call
