"""What a mistyped name may have meant. Loads difflib only when there is an error to word."""

from __future__ import annotations

from collections.abc import Iterable


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """The known names that are most alike: one by the whole, else all whose last part is; [] if none is alike."""
    import difflib

    names = list(known)
    last = name.rpartition(".")[2]
    same = [each for each in names if each.rpartition(".")[2] == last]
    whole = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if same or whole:
        return same or whole
    alike = difflib.get_close_matches(last, {each.rpartition(".")[2] for each in names}, n=1, cutoff=cutoff)
    return [each for each in names if each.rpartition(".")[2] in alike]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean X?", or ""."""
    meant = closest(name, known)
    return f"did you mean {' or '.join(meant)}?" if meant else ""
