"""Parsl: the high-throughput executor with one worker, called directly, without the graph of apps."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider


class Htex:
    """executor.submit."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rfaas-peers-")
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        executor = HighThroughputExecutor(
            label="htex",
            address="127.0.0.1",
            max_workers_per_node=1,
            encrypted=False,
            poll_period=1,
            prefetch_capacity=100,
            provider=LocalProvider(worker_init=f"export PYTHONPATH={here}"),
        )
        config = Config(
            executors=[executor],
            strategy="none",
            usage_tracking=0,
            initialize_logging=False,
            run_dir=self._directory.name,
        )
        self._kernel = parsl.load(config)
        self._executor = executor

    def call(self, function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - see Adapter
        """See Adapter."""
        return self._executor.submit(function, {}, *args).result()

    def burst(self, function: Callable[..., Any], values: Sequence[int]) -> list[Any]:
        """See Adapter."""
        submit = self._executor.submit
        return [future.result() for future in [submit(function, {}, value) for value in values]]

    def close(self) -> None:
        """See Adapter."""
        self._kernel.cleanup()
        self._directory.cleanup()
