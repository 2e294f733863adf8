#!/usr/bin/env bash
# Lists the Pythons on this machine that can build and run rfaas, one "path<TAB>version" a line, oldest first.
#
# usage: tools/find-pythons.sh [--first]
#   --first   only the one that the development environment should use: $RFAAS_PYTHON, else `python3`, else the newest.
#
# Looks at PATH, /usr/bin, /usr/local/bin, pyenv and uv. The same interpreter under several names counts once.
# An interpreter that is new enough but cannot be used is named on stderr with the reason.
set -euo pipefail

# Old interpreters run this too, so it must parse under Python 2.
probe='
import sys, sysconfig, os
if sys.version_info < (3, 11) or sys.implementation.name != "cpython" or sys.version_info.releaselevel != "final":
    sys.exit(0)
path = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
version = "%d.%d.%d" % sys.version_info[:3]
missing = ""
try:
    import venv, ensurepip
except ImportError:
    missing = "has no venv module (python3-venv)"
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing = "has no Python.h (python3-dev)"
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    missing = "is a free-threaded build, which rfaas does not support yet"
if missing:
    sys.stderr.write("left out: %s (%s) %s\n" % (path, version, missing))
else:
    print("%s\t%s\t%s" % (path, version, os.path.realpath(sys.base_prefix)))
'

candidates() {
    if [[ -n ${RFAAS_PYTHON:-} ]]; then
        echo "$RFAAS_PYTHON"
        if [[ ${1:-} == --first ]]; then return; fi # what was asked for by name, or nothing
    fi
    type -aP python3 || true
    local folder
    local -a folders
    IFS=: read -ra folders <<<"$PATH"
    for folder in "${folders[@]}" /usr/bin /usr/local/bin; do
        compgen -G "$folder/python3.[0-9]*" | grep -E '/python3\.[0-9]+$' | sort -rV || true
    done
    compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/*/bin/python3" | sort -rV || true
    compgen -G "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python/*/bin/python3" | sort -rV || true
}

# One line for each (version, prefix), in the order of the candidates.
usable() {
    local candidate
    candidates "$@" | awk '!seen[$0]++' | while read -r candidate; do
        # -I: neither the current folder nor PYTHON* variables may answer for the interpreter.
        "$candidate" -I -c "$probe" </dev/null 2> >(grep '^left out' >&2) || true
    done | awk -F'\t' '!seen[$2 FS $3]++ { print $1 FS $2 }'
}

if [[ ${1:-} == --first ]]; then
    found=$(usable --first)
    if [[ -z $found ]]; then
        echo "${RFAAS_PYTHON:-this machine}: no Python >= 3.11 with venv and Python.h; install one, or name it:" \
            "RFAAS_PYTHON=/path/to/python3" >&2
        exit 1
    fi
    echo "${found%%$'\n'*}"
else
    usable | sort -t$'\t' -k2,2V
fi
