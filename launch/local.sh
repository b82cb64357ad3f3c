#!/usr/bin/env bash
# Several processes on this machine, as if each were a host:
#
#   launch/local.sh 2 --config=configs/tiny.py --workdir=runs/tiny --config.mesh.fsdp=2
#
# What follows the number is what `deemo train` takes. Typed again, it goes on. On CPUs,
# DEVICES=4 gives each process four simulated devices; on GPUs, each gets its own ones.
# When one process fails, the others are stopped, and its exit code is that of all.
set -euo pipefail
count=${1:?usage: launch/local.sh N ARGUMENTS-OF-TRAIN…}
shift
port=${PORT:-$((20000 + RANDOM % 20000))}
if [ -n "${DEVICES:-}" ]; then
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
gpus=0
if command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus | wc -l); fi
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for ((index = 0; index < count; index++)); do
    if ((gpus >= count)); then
        each=$((gpus / count))
        devices=$(seq -s, $((index * each)) $((index * each + each - 1)))
        export CUDA_VISIBLE_DEVICES=$devices
    fi
    ${DEEMO:-deemo} train "$@" --coordinator="127.0.0.1:$port" \
        --process_count="$count" --process_index="$index" &
done
for ((index = 0; index < count; index++)); do wait -n; done
