"""Where what programs in C and Fortran are built with lies: rfaas.h, rfaas.f90, librfaas, as compilers take it.

Must not start or compile anything.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import rfaas
from rfaas_transport.errors import ConfigError

INCLUDE = "include"
LIBRARY = "lib"


def place(relative: str) -> Path:
    """Where an installed part of rfaas is; an editable installation has its compiled parts in another place.

    Raises:
        ConfigError: it is not installed.
    """
    for directory in rfaas.__path__:
        path = Path(directory) / relative
        if path.exists():
            return path
    raise ConfigError(
        f"this installation of rfaas has no {relative}",
        hint="install rfaas with pip, not by setting PYTHONPATH to its sources",
    )


def words(*, cflags: bool = False, fortran: bool = False, libs: bool = False, pkgconfigdir: bool = False) -> list[str]:
    """The command line's words that were asked for, quoted for a shell.

    Raises:
        ConfigError: a part is not installed.
    """
    found = []
    if cflags:
        found.append(f"-I{place(f'{INCLUDE}/rfaas.h').parent}")
    if fortran:
        found.append(str(place(f"{INCLUDE}/rfaas.f90")))
    if libs:
        directory = place(f"{LIBRARY}/librfaas.so").parent
        found += [f"-L{directory}", f"-Wl,-rpath,{directory}", "-lrfaas"]
    if pkgconfigdir:
        found.append(str(place(f"{LIBRARY}/pkgconfig/rfaas.pc").parent))
    return [shlex.quote(word) for word in found]
