#!/usr/bin/env bash
# Open MPI 4; before `--` what mpirun takes, after it what `deemo train` takes:
#
#   launch/mpi.sh --host=a:1,b:1 -- --config=configs/deemo_llama_7b.py:align \
#       --workdir=/shared/runs/align
#
# A process that is alone on its host has all GPUs of it; of several, each has one. The
# first host must be the one where this is typed: process 0 is looked for there. Hung
# (exit code 76), killed, or asked to stop in one process only (75), the run is started
# again and goes on, RESTARTS (100) times at most; done (0), failed (1) or of bad usage
# (2), it is not. SIGTERM, SIGUSR1 and Ctrl-C save it and end it with exit code 75.
set -uo pipefail
options=()
while [ "${1:?usage: launch/mpi.sh OPTIONS-OF-MPIRUN… -- ARGUMENTS-OF-TRAIN…}" != -- ]; do
    options+=("$1")
    shift
done
shift
run='' asked=0
ask() {
    asked=1
    # Sent SIGTERM, mpirun would kill the processes before they have saved.
    if [ "$run" ]; then kill -USR1 "$run" 2>/dev/null; fi
}
trap ask TERM USR1 INT
for ((start = 0; start <= ${RESTARTS:-100}; start++)); do
    if ((asked)); then # between two starts
        code=75
        break
    fi
    # In a session of its own, so that Ctrl-C comes to this shell alone.
    setsid mpirun "${options[@]}" ${DEEMO:-deemo} train "$@" &
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
