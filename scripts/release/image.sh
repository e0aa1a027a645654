#!/usr/bin/env bash
# The image for both architectures, from the archives that build.sh made: what is in it is what was
# released. Usage: image.sh FOLDER REPOSITORY [PUSH-OPTIONS], such as image.sh dist
# ghcr.io/OWNER/captcha-worker. Prints name=… and digest=….
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$1 repository=$2
shift 2

scripts/ensure-package buildah buildah
version=$(scripts/release/version.sh)
base=${BASE_RUNTIME:-docker.io/library/debian:bookworm-slim@sha256:7b140f374b289a7c2befc338f42ebe6441b7ea838a042bbd5acbfca6ec875818}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
manifest=captcha-worker-$version-$$
for pair in amd64:x86_64 arm64:aarch64; do
  archive=$folder/captcha-worker-$version-${pair#*:}-unknown-linux-gnu.tar.gz
  # Stands in the place of the Dockerfile's first stage.
  stage=$work/${pair%:*}
  mkdir -p "$stage/build/target/release" "$stage/etc/ssl/certs"
  tar --extract --file "$archive" --directory "$stage/build/target/release" --strip-components 1 --wildcards '*/captcha-worker'
  cp /etc/ssl/certs/ca-certificates.crt "$stage/etc/ssl/certs/"
  buildah build --quiet --manifest "$manifest" --platform "linux/${pair%:*}" --timestamp "$epoch" \
    --build-context "build=$stage" --build-arg "BASE_RUNTIME=$base" \
    --label "org.opencontainers.image.version=$version" \
    --label org.opencontainers.image.source=https://github.com/captcha-worker/captcha-worker \
    --file deploy/Dockerfile . >&2
done
buildah manifest push --quiet --all --digestfile "$work/digest" "$@" "$manifest" "docker://$repository:$version" >&2
buildah manifest rm "$manifest" >&2
# Buildah 1.28 ends with 0 where the registry cannot be reached.
[ -s "$work/digest" ] || { echo "nothing was pushed to $repository" >&2; exit 1; }
echo "name=$repository"
echo "digest=$(cat "$work/digest")"
