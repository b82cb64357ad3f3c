#!/usr/bin/env bash
# On a TPU VM slice that there is, the same process on all of its workers:
#
#   ZONE=us-east5-b launch/tpu_vm.sh NAME --config=configs/deemo_llama_7b.py:align \
#       --workdir=/mnt/shared/runs/align
#
# What follows the slice's name is what `deemo train` takes. Each worker has the checkout
# in DIRECTORY (deemo-jax, in the home folder) with its environment in .venv, and all see
# the workdir; the processes find each other by the slice's metadata. Type it where gcloud
# stays connected: in tmux on a small machine near the slice.
# Hung (exit code 76), killed, or asked to stop in one process only (75), the run is
# started again on all workers and goes on, RESTARTS (100) times at most; done (0), failed
# (1) or of bad usage (2), it is not. When one process fails, the others are given GRACE
# (120) seconds to say what they know and are killed then. SIGTERM, SIGUSR1 and Ctrl-C save
# the run and end it with exit code 75. A slice that was taken away, or a host of it that
# ssh does not reach, has to be made anew, then type this again.
set -uo pipefail
slice=${1:?usage: launch/tpu_vm.sh NAME ARGUMENTS-OF-TRAIN…}
shift
on_workers() {
    # In a session of its own, so that Ctrl-C comes to this shell alone.
    exec setsid gcloud compute tpus tpu-vm ssh "$slice" --worker=all \
        ${ZONE:+--zone="$ZONE"} ${PROJECT:+--project="$PROJECT"} --command="$1"
}
printf -v command '%q ' "${DEEMO:-.venv/bin/deemo}" train "$@"
printf -v directory '%q' "${DIRECTORY:-deemo-jax}"
# The remote shell stays: of a process killed by a signal, ssh would say what it says of a
# lost connection, and gcloud would start that one process again by itself.
failed='deemo failed here: exit code'
train="cd $directory && { $command & echo \$! >~/.deemo.pid; wait \$!; code=\$?; "
train+="if ((code)); then echo $failed \$code; fi; exit \$code; }"
# gcloud waits for all workers, and so for ever for one that hangs when the others left.
start_all() {
    local line='' end=0 wait=()
    on_workers "$train" | while true; do
        if IFS= read -r "${wait[@]}" line; then
            printf '%s\n' "$line"
            if [[ $line = *"$failed"* ]] && ((!end)); then
                end=$((SECONDS + ${GRACE:-120}))
            fi
        elif (($? > 128)); then # in time nothing came
            printf '%s' "$line"
            (on_workers 'kill -KILL "$(cat ~/.deemo.pid)"') || true
        else
            break
        fi
        if ((end)); then wait=(-t "$((end > SECONDS ? end - SECONDS : 1))"); fi
    done
    exit "${PIPESTATUS[0]}"
}
asked=0
ask() {
    asked=1
    (on_workers 'kill -TERM "$(cat ~/.deemo.pid)"') || true
}
trap ask TERM USR1 INT
for ((start = 0; start <= ${RESTARTS:-100}; start++)); do
    if ((asked)); then # between two starts
        code=75
        break
    fi
    start_all &
    run=$! code=0
    wait "$run" || code=$?
    if ((asked)); then # the signal has ended the waiting, not the run
        code=0
        wait "$run" || code=$?
    fi
    if ((asked || code <= 2)); then break; fi
    echo "exit code $code: the run is started again" >&2
done
exit "$code"
