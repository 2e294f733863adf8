"""Ends each file given with one newline and its lines without blanks; exit status 1 when that changed any.

usage: python tools/end_of_file.py FILE...
"""

import re
import sys
from pathlib import Path


def tidy(text: str) -> str:
    """Return the text with one newline at its end (none when it is empty) and no blanks at the ends of lines."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n")
    return text + "\n" if text else ""


def main() -> None:
    """Rewrite what is untidy and name it."""
    changed = False
    for name in sys.argv[1:]:
        path = Path(name)
        before = path.read_text()
        after = tidy(before)
        if after != before:
            path.write_text(after)
            print(f"tidied {name}")
            changed = True
    sys.exit(1 if changed else 0)


if __name__ == "__main__":
    main()
