"""A logger for the thread that serves all calls: a handler that raises costs the line and nothing else.

A program's handlers are its own code, and so is the `sys.stderr` that they write to.
"""

from __future__ import annotations

import logging
from typing import Any


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger of this name, from which nothing comes back but KeyboardInterrupt."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - as in logging
        """Log, if the handlers can."""
        try:
            super().log(level, msg, *args, **kwargs, stacklevel=2)  # 2: whoever logs, not this line
        except KeyboardInterrupt:
            raise
        except BaseException:  # nobody is left who could be told
            pass
