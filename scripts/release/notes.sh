#!/usr/bin/env bash
# A version's section of CHANGELOG.md, without its heading. Usage: notes.sh VERSION
#
# With --release DATE it first makes the section: what stands under "Unreleased" becomes "VERSION -
# DATE", and CHANGELOG.md is written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version=$1

if [ "${2:-}" = --release ]; then
  [[ ${3:-} =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || { echo "usage: notes.sh VERSION --release YYYY-MM-DD" >&2; exit 2; }
  ! grep -q "^## $version - " CHANGELOG.md || { echo "CHANGELOG.md has a section $version already" >&2; exit 1; }
  sed -i "s/^## Unreleased\$/## Unreleased\n\n## $version - $3/" CHANGELOG.md
fi

notes=$(awk -v start="## $version - " 'index($0, start) == 1 { inside = 1; next } /^## / { inside = 0 } inside' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || { echo "CHANGELOG.md has no section \"## $version - DATE\", or nothing stands in it" >&2; exit 1; }
# Without the blank lines before and after it.
sed -e '/./,$!d' <<<"$notes"
