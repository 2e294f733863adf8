"""What the policy made of each node, kept in the state directory for `rfaas explain NODE`.

`{"schema": "rfaas-harvest/1", "at_unix_s": n, "nodes": {name: [code, text, remedy], …}}`, replaced as a whole. It is
for people only: nothing decides by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rfaas_slurm_plugin.policy.rules import Verdict

VERDICTS: Final = "harvest.json"
REPEAT_S: Final = 60.0
"""It is written again after this long at the latest, so that its age tells whether the harvester lives."""


class VerdictFile:
    """Writes the file when something in it has changed: state directories are often on a shared file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, Verdict] = {}
        self._written_unix_s = float("-inf")

    def write(self, verdicts: Mapping[str, Verdict], now_unix_s: float) -> None:
        """Replace the file.

        Raises:
            OSError: it can't be written; the one before is still there.
        """
        if verdicts == self._written and now_unix_s - self._written_unix_s < REPEAT_S:
            return
        nodes = {name: [verdict.code.value, verdict.text, verdict.remedy] for name, verdict in verdicts.items()}
        text = json.dumps({"schema": "rfaas-harvest/1", "at_unix_s": int(now_unix_s), "nodes": nodes})
        new = self._path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self._path)
        self._written, self._written_unix_s = dict(verdicts), now_unix_s
