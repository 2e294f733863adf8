"""Reading tests/wire/vectors: bytes that were worked out by hand from the specifications."""

import json
from pathlib import Path
from typing import Any

_VECTORS = Path(__file__).parent.parent / "wire" / "vectors"


def load(name: str) -> Any:
    """The content of `vectors/<name>.json`."""
    return json.loads((_VECTORS / f"{name}.json").read_text())


def raw(vector: dict[str, Any]) -> bytes:
    """The bytes of a frame vector, which lists them field by field with a remark beside each."""
    return bytes.fromhex("".join(piece for piece, _ in vector["bytes"]))
