#!/usr/bin/env bash
# The release archive for this machine's architecture, linked against glibc 2.31: it runs on every
# distribution since 2020. The same commit gives the same bytes, in any folder. Usage: build.sh
# FOLDER [TARGET], such as aarch64-unknown-linux-gnu
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$root"

# Another compiler gives other bytes.
export RUSTUP_TOOLCHAIN=1.95.0
rustc --version >/dev/null 2>&1 || rustup toolchain install --profile minimal "$RUSTUP_TOOLCHAIN"

version=$(scripts/release/version.sh)
target=${2:-$(rustc -vV | sed -n 's/^host: //p')}
rustup target add "$target"
target_dir=${CARGO_TARGET_DIR:-target}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

venv=$target_dir/release-venv
if ! cmp -s scripts/release/requirements.txt "$venv/installed"; then
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement scripts/release/requirements.txt
  cp scripts/release/requirements.txt "$venv/installed"
fi
PATH=$(cd "$venv" && pwd)/bin:$PATH

# Paths of this machine must not reach the binary: from Rust by panics, from C by assertions.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0
export RUSTFLAGS="--remap-path-prefix=$root=/src --remap-path-prefix=$cargo_home=/cargo"
export CFLAGS="-ffile-prefix-map=$root=/src -ffile-prefix-map=$cargo_home=/cargo"
cargo zigbuild --release --locked --bin captcha-worker --features otel --target "$target.2.31"

name=captcha-worker-$version-$target
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/$name"
cp "$target_dir/$target/release/captcha-worker" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$stage/$name/"
tar --create --directory "$stage" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
  --mode='u=rwX,go=rX' "$name" | gzip --no-name --best >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"
