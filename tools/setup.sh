#!/usr/bin/env bash
# Makes .venv and installs rfaas in it, editable, with the given extras (default: dev). Needs no root.
#
# usage: tools/setup.sh [EXTRA...]
#
# The second run does nothing in a few milliseconds: a stamp in .venv holds the hash of everything that is compiled or
# that says what to install, and of which packages there are, so a change to any of it installs again: an editable
# install knows a module that became a package by its old place. Other Python files need no reinstall.
# $RFAAS_PYTHON names the interpreter for a new .venv; tools/find-pythons.sh chooses otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${*:-dev}
extras=${extras// /,}

built_from() {
    echo pyproject.toml CMakeLists.txt
    find rfaas transport executors slurm_plugin -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.f90' -o -name '*.pc.in'
}

packages() { find rfaas transport executors allocator slurm_plugin -name __init__.py; }

# The path is part of it because an editable install, like any venv, does not survive being moved.
# Encryption is built in where OpenSSL's headers are.
openssl() { cat /usr/include/openssl/opensslv.h /usr/local/include/openssl/opensslv.h 2>/dev/null || true; }

# RDMA likewise, where those of rdma-core are.
verbs() { cat /usr/include/infiniband/verbs.h 2>/dev/null || true; }

# And the node agent where munge's are.
munge() { cat /usr/include/munge.h 2>/dev/null || true; }

fingerprint=$({ pwd; openssl; verbs; munge; packages | LC_ALL=C sort; built_from | LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -d' ' -f1)

is_current() { [[ -f .venv/.installed-$1 && $(<".venv/.installed-$1") == "$fingerprint" ]]; }

# dev holds every other extra.
if is_current "$extras" || is_current dev; then exit 0; fi

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # two `make` at once: the second finds the work done
if is_current "$extras" || is_current dev; then exit 0; fi

if ! .venv/bin/python -c '' 2>/dev/null; then
    IFS=$'\t' read -r python version < <(tools/find-pythons.sh --first)
    echo "making .venv with Python $version ($python)"
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "installing rfaas[$extras] in .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
rm -f .venv/.installed-*
echo "$fingerprint" >".venv/.installed-$extras"
