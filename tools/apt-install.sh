#!/usr/bin/env bash
# usage: tools/apt-install.sh [LIST]     default: tools/apt-packages.txt
# Installs what is missing of a list of packages. Without root or apt it names what is missing and goes on, since
# the tests that need it then say so themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
list=${1:-tools/apt-packages.txt}

missing=()
while read -r package _; do
    if [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) != "install ok installed" ]]; then
        missing+=("$package")
    fi
done < <(sed -E 's/#.*//; /^[[:space:]]*$/d' "$list")

if ((${#missing[@]} == 0)); then exit 0; fi
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "not installed, and installing needs root and apt: ${missing[*]}" >&2
    exit 0
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
