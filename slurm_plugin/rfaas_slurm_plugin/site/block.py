"""Lines of ours in a file of the site's: one block between two marks at the end, put in and taken out. Pure.

`without(with_block(text, lines)) == text` for every text, also for one whose last line has no end, and for a file that
was not there (None): the first mark remembers either. What others changed around the block meanwhile stays.
"""

from __future__ import annotations

import re
from typing import Final

from rfaas_transport.errors import ConfigError

_BEGIN: Final = b"# >>> rfaas: written by `rfaas slurm install`; `rfaas slurm uninstall` removes it"
_NO_NEWLINE: Final = b" (and the end of the line before)"
_NEW_FILE: Final = b" (and this file)"
_END: Final = b"# <<< rfaas"
_END_LINE: Final = re.compile(rb"^" + re.escape(_END) + rb"\r?(?:\n|\Z)", re.MULTILINE)


def with_block(text: bytes | None, lines: list[str]) -> bytes:
    """The text with our block at its end, in place of one that is there; None: there is no file.

    Raises:
        ConfigError: as `without`.
    """
    bare = without(text)
    ends = not bare or bare.endswith(b"\n")
    head = _BEGIN + (_NEW_FILE if bare is None else b"" if ends else _NO_NEWLINE)
    body = "".join(f"{line}\n" for line in lines).encode()
    return (bare or b"") + (b"" if ends else b"\n") + head + b"\n" + body + _END + b"\n"


def without(text: bytes | None) -> bytes | None:
    """The text without our block; itself if there is none; None if there was no file and nothing came to it.

    Raises:
        ConfigError: a mark stands alone, or there are several blocks: somebody edited them.
    """
    if text is None:
        return None
    begins, ends = text.count(_BEGIN), list(_END_LINE.finditer(text))
    if not begins and not ends:
        return text
    at = text.find(_BEGIN)
    line_end = text.find(b"\n", at)
    if begins != 1 or len(ends) != 1 or line_end < 0 or ends[0].start() < line_end or text[at - 1 : at] not in b"\n":
        raise ConfigError(
            f"{begins} first and {len(ends)} last marks of rfaas's block, or not where they were: somebody edited them",
            hint="leave one block, from the line '# >>> rfaas' to the line '# <<< rfaas', or remove it by hand",
        )
    mark = text[at + len(_BEGIN) : line_end].removesuffix(b"\r")  # an editor may have changed all ends of lines
    before, after = text[:at], text[ends[0].end() :]
    if mark == _NEW_FILE and not before and not after:
        return None
    # the end of the line before was ours; whoever wrote lines after the block counts on it
    return (before[:-1] if mark == _NO_NEWLINE and not after else before) + after
