#!/usr/bin/env bash
# Packs the Helm chart, and pushes it where a registry is named. Usage: chart.sh FOLDER
# [oci://HOST/PATH] PLAIN_HTTP=1 is for a registry on this machine. Prints name=… and digest=… of
# what was pushed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
registry=${2:-}
cd "$root"

python=${CARGO_TARGET_DIR:-target}/deploy-venv/bin/python
make --no-print-directory --quiet "$python" >&2
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# A copy without symbolic links, and with the time of the commit: the same commit gives the same
# bytes.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp --recursive --dereference deploy/helm/captcha-worker "$copy/"
find "$copy" -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
"$python" - "$copy/captcha-worker" "$out" "$registry" <<'PYTHON'
import os
import sys

import helm_python

chart, out, registry = sys.argv[1:]
archive = helm_python.package(chart, destination=out)
print(archive, file=sys.stderr)
if registry:
    plain = bool(os.environ.get("PLAIN_HTTP"))
    with helm_python.Chart.load(archive) as loaded, helm_python.RegistryClient(plain_http=plain) as client:
        client.push(archive, registry, plain_http=plain)
        address = f"{registry}/{loaded.name}"
        print(f"name={address.removeprefix('oci://')}")
        print(f"digest={client.resolve(f'{address}:{loaded.version}')['digest']}")
PYTHON
