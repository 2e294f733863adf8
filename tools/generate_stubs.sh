#!/usr/bin/env bash
# Makes the Python stubs of rfaas/control/proto/*.proto anew, with grpcio-tools 1.62 on Python 3.11 in a venv of its own.
# Code of that generator runs on protobuf 4.25 and newer; code of a newer one refuses older runtimes.
# Usage: tools/generate_stubs.sh [--check]   (--check: fail if the committed stubs are not what it would make)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.cache/stubs-venv
if [[ ! -x $venv/bin/python ]] || ! "$venv/bin/python" -c 'import grpc_tools' 2>/dev/null; then
    rm -rf "$venv"
    python3.11 -m venv "$venv"
    # setuptools: grpcio-tools 1.62 asks it for pkg_resources, which newer ones lack.
    "$venv/bin/pip" install --quiet 'grpcio-tools==1.62.*' 'setuptools<81'
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$venv/bin/python" -W ignore -m grpc_tools.protoc -I . \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" rfaas/control/proto/*.proto
# A file that defines no service gets no stubs worth keeping.
rm -f "$out/rfaas/control/proto/common_pb2_grpc.py"

if [[ ${1:-} == --check ]]; then
    for file in "$out"/rfaas/control/proto/*; do
        cmp "$file" "rfaas/control/proto/$(basename "$file")"
    done
else
    cp "$out"/rfaas/control/proto/* rfaas/control/proto/
fi
