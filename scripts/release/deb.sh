#!/usr/bin/env bash
# The Debian package of the binary that build.sh made before for this machine; `make deb` builds
# another one. Usage: deb.sh FOLDER
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$root"

target_dir=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^CARGO_DEB := //p' Makefile)
cargo install --quiet --locked --root "$target_dir/release-tools" --version "${version:?the Makefile names no CARGO_DEB}" cargo-deb
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
target=$(rustc -vV | sed -n 's/^host: //p')
"$target_dir/release-tools/bin/cargo-deb" --locked --no-build --no-strip --target "$target" --output "$out/"
