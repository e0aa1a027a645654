#!/usr/bin/env bash
# SHA256SUMS of everything in a folder. Usage: checksums.sh FOLDER
set -euo pipefail
cd "$1"
rm -f SHA256SUMS
sums=$(sha256sum -- *)
echo "$sums" >SHA256SUMS
