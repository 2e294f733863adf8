"""Examples of hypothesis have no deadline."""

import support.examples  # noqa: F401
