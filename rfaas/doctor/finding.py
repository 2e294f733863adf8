"""What a check found, in the form that all of them use."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: Final = ("ok", "info", "warning", "error")


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: which, in a word or two.
        severity: ok; info: something is absent that may be; warning: works, but not as well or not for long; error:
            does not work.
        text: what was found.
        remedy: what to do; never empty for warning and error.
    """

    check: str
    severity: Severity
    text: str
    remedy: str = ""
