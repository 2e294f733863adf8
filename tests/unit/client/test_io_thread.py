"""A fault inside the thread that serves all calls: no future may wait for ever because of it."""

import logging

import pytest

import rfaas
from rfaas.client.io_thread import IoThread


class Fault(BaseException):
    """What nothing expects."""


class Handler(logging.Handler):
    def emit(self, record):
        raise Fault(record.getMessage())


def test_a_fault_of_the_thread_fails_calls_though_the_log_handler_raises(monkeypatch):
    def fail(self):
        raise Fault("turn")

    monkeypatch.setattr(IoThread, "_turn", fail)
    handler = Handler()
    logging.getLogger("rfaas").addHandler(handler)
    try:
        with rfaas.Executor(1, allocator="embedded") as ex:
            future = ex.submit(abs, -1)
            with pytest.raises(rfaas.RfaasError, match="rfaas failed in this process") as caught:
                future.result(30)
            assert isinstance(caught.value.__cause__, Fault)
    finally:
        logging.getLogger("rfaas").removeHandler(handler)
