#!/usr/bin/env bash
# The release of a tag, with everything in FOLDER and the changelog's section. Usage: publish.sh
# FOLDER TAG gh takes GH_TOKEN and GH_REPO from the environment.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

version=$("$root/scripts/release/version.sh" "$2")
"$root/scripts/ensure-package" gh gh
notes=$("$root/scripts/release/notes.sh" "$version")
gh release create "$2" --verify-tag --title "$2" --notes-file - "$1"/* <<<"$notes"
