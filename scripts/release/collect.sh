#!/usr/bin/env bash
# Fails where two builds of one architecture differ, then puts the files of all architectures
# together. Usage: collect.sh BUILT FOLDER, where BUILT has the folders amd64, amd64-again and
# arm64.
set -euo pipefail
built=$1 out=$2

# What both have must be the same, and nothing may be in one of them only.
diff --recursive --brief "$built/amd64" "$built/amd64-again" >&2
mkdir -p "$out"
cp "$built"/amd64/* "$built"/arm64/* "$out/"
ls -l "$out" >&2
