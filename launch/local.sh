#!/usr/bin/env bash
# Several processes on this machine, as if each were a host:
#
#   launch/local.sh 2 --config=configs/tiny.py --workdir=runs/tiny --config.mesh.fsdp=2
#
# What follows the number is what `deemo train` takes. Typed again, it goes on. On CPUs,
# DEVICES=4 gives each process four simulated devices; on GPUs, each gets its own ones.
# When one process fails, the others are given GRACE seconds to say what they know and are
# killed then; its exit code is that of all. SIGTERM, SIGUSR1 and Ctrl-C are passed on: the
# run saves and ends with exit code 75.
set -euo pipefail
count=${1:?usage: launch/local.sh N ARGUMENTS-OF-TRAIN…}
shift
port=${PORT:-$((20000 + RANDOM % 20000))}
if [ -n "${DEVICES:-}" ]; then
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
    # XLA's threads: with as few as devices, programs from JAX_COMPILATION_CACHE_DIR hang.
    export NPROC="${NPROC:-$((8 * DEVICES))}"
fi
gpus=0
if command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus | wc -l); fi
processes=() passed_on=0 failed=0 killer=
pass_on() {
    passed_on=1
    kill -TERM "${processes[@]}" 2>/dev/null || true
}
trap pass_on TERM USR1 INT
for ((index = 0; index < count; index++)); do
    if ((gpus >= count)); then
        each=$((gpus / count))
        devices=$(seq -s, $((index * each)) $((index * each + each - 1)))
        export CUDA_VISIBLE_DEVICES=$devices
    fi
    ${DEEMO:-deemo} train "$@" --coordinator="127.0.0.1:$port" \
        --process_count="$count" --process_index="$index" &
    processes+=($!)
done
while [ -n "$(jobs -pr)" ]; do
    code=0
    wait -n || code=$?
    if ((passed_on)); then
        passed_on=0 # the signal has ended the waiting, and no process has ended
    elif ((code && !failed)); then
        failed=$code
        (sleep "${GRACE:-20}" && kill -KILL "${processes[@]}") 2>/dev/null &
        killer=$!
        disown
    fi
done
for process in "${processes[@]}"; do # those that ended while nobody waited
    code=0
    wait "$process" 2>/dev/null || code=$?
    if ((code && code != 127 && !failed)); then failed=$code; fi
done
if [ -n "$killer" ]; then kill "$killer" 2>/dev/null || true; fi # its time is over
exit "$failed"
