#!/usr/bin/env bash
# Logs in to a registry, for image.sh and chart.sh. The password is REGISTRY_TOKEN. Usage: login.sh
# HOST USER [OPTIONS]
set -euo pipefail
host=$1 user=$2
shift 2

"$(dirname "${BASH_SOURCE[0]}")/../ensure-package" buildah buildah
# Where Helm looks as well.
mkdir -p ~/.docker
buildah login --authfile ~/.docker/config.json --username "$user" --password-stdin "$@" "$host" <<<"${REGISTRY_TOKEN:?}"
