#!/usr/bin/env bash
# The version of Cargo.toml. With a tag as argument it fails where the two differ.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=$(sed -n '/^\[workspace\.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
if [ -n "${1:-}" ] && [ "$1" != "v$version" ]; then
  echo "the tag is $1, and Cargo.toml says $version: the tag must be v$version" >&2
  exit 1
fi
echo "$version"
