"""Calls over RDMA in tests: the address that agents listen on, and what is told of a connection."""

import os

from click.testing import CliRunner

import rfaas
from rfaas.cli.explain import explain
from rfaas_transport import verbs
from support.personal import Personal

TIMEOUT_S = 120.0


def address() -> str:
    """An address of this host that belongs to a device, as an agent listens on it."""
    shown = [at.shown() for at in verbs.addresses() if at.is_active and at.gid]
    return os.environ.get("RFAAS_RDMA_ADDRESS") or next((text for text in shown if "." in text), "127.0.0.1")


def serves(executor: rfaas.Executor) -> bool:
    """Whether it answers; a session process that starts beside others, emulated, may not be there in time at first."""
    try:
        executor.submit(pow, 2, 2).result(TIMEOUT_S)
    except rfaas.AllocatorUnavailable:
        return False
    return True


def explained(personal: Personal) -> str:
    """What `rfaas explain` says, without the start of an interpreter."""
    told = CliRunner().invoke(explain, ["--state-dir", str(personal.state_dir)])
    assert told.exit_code == 0, told.output
    return told.output
