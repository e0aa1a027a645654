#!/usr/bin/env bash
# What a release is made of, as CycloneDX. Usage: sbom.sh FOLDER
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$root"

version=$(scripts/release/version.sh)
target_dir=${CARGO_TARGET_DIR:-target}
cargo install --quiet --locked --root "$target_dir/release-tools" --version 0.5.9 cargo-cyclonedx
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# It writes beside every member's manifest, so that it works on a copy. Without build and test
# dependencies: they are not shipped.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar --extract --directory "$copy"
for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
  "$target_dir/release-tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --features otel --target "$target" --no-build-deps \
    --manifest-path "$copy/Cargo.toml" --override-filename captcha-worker
  # The copy's folder is in the names of the workspace's crates.
  sed "s#$copy#/src#g" "$copy/captcha-worker.json" >"$out/captcha-worker-$version-$target.cdx.json"
done
