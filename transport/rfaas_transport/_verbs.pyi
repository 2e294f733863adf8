"""Types of the compiled module `_verbs`."""

from typing import Any

operations: object

def devices() -> list[dict[str, Any]]: ...
def addresses() -> list[dict[str, Any]]: ...
