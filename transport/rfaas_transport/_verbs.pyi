"""Types of the compiled module `_verbs`."""

from typing import Any

operations: object

def addresses() -> list[dict[str, Any]]: ...
