#!/usr/bin/env bash
# Joins a Mac to a cluster as the hardware class `mlx`. Run it on the Mac, in the project's folder, after `make serve` has
# set up .venv once:
#   RAY_AUTH_TOKEN=<the cluster's token> cluster/launch/mac_worker.sh <head>:6379
#
# Ray calls clusters with Macs experimental. The head needs RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1 too, and both ends the same
# Python and Ray. Ray's traffic is not encrypted: join over a private network or a VPN.
set -euo pipefail

head=${1:?usage: mac_worker.sh <head>:6379}
: "${RAY_AUTH_TOKEN:?set the token of the cluster}"
[[ "$(uname -sm)" == "Darwin arm64" ]] || { echo "mac_worker.sh: this is no Mac with Apple silicon" >&2; exit 1; }

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1 RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647
export RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S=2 RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S=2
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.edge.middleware:middlewares RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1
export RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS=1 RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

# The Mac offers no GPU: Ray would count its GPU as `GPU: 1` and place CUDA replicas on it. caffeinate keeps the Mac awake.
exec caffeinate -is .venv/bin/ray start --address="$head" --num-gpus=0 --resources='{"mlx": 1}' \
  --labels=motet.hardware=mlx --disable-usage-stats --block
