"""The training loop: a workdir in, a trained model out, resumed wherever it stopped."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from pathlib import Path
import time
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
import numpy as np

from deemo_jax.checkpoint import Best, Checkpoints
from deemo_jax.config import Config, ConfigError
from deemo_jax.data.source import ShardSource
from deemo_jax.distributed import exchange, first_alone, is_first, meet, together
from deemo_jax.flops import train_flops
from deemo_jax.models.deemo_llama import DeemoLlama
from deemo_jax.sharding import check_rows, make_mesh, place
from deemo_jax.spool import flush
from deemo_jax.storage import AnyPath, locate
from deemo_jax.train.agreement import check_agreement, check_same_data
from deemo_jax.train.explain import check_replication
from deemo_jax.train.frozen import check_towers
from deemo_jax.train.health import Health, UnsoundError
from deemo_jax.train.initial import check_initial
from deemo_jax.train.ledger import Ledger
from deemo_jax.train.local_checkpoints import LocalCheckpoints, make_run_id
from deemo_jax.train.lock import locked
from deemo_jax.train.log import (
    Dispatched,
    Metrics,
    adopt_config,
    numbers,
    say_in,
    training_bar,
    write_config,
    write_environment,
)
from deemo_jax.train.phases import Goodput, Phases
from deemo_jax.train.preemption import Asked, Preempted, preemption
from deemo_jax.train.prepare import open_split, prepare_data, prepare_tokenizer
from deemo_jax.train.profile import Profile
from deemo_jax.train.seen import check_beginning
from deemo_jax.train.start import check_split, first_state, items_of, make_batches
from deemo_jax.train.step import TrainState, make_train_step, split_model
from deemo_jax.train.wandb_board import wandb_is_asked_for
from deemo_jax.train.watchdog import Watchdog

EVIDENCE = "evidence"

Evaluate = Callable[[DeemoLlama, int, Callable[[], None]], Mapping[str, Any]]


def train(
    config: Config,
    workdir: AnyPath,
    *,
    evaluate: Evaluate | None = None,
    check_evaluation: Callable[[ShardSource], None] | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> TrainState:
    """Trains up to `config.train.steps` and returns the last state.

    In an empty workdir it starts, from `config.init_from` or from the seed; in one
    that it was killed in, it goes on from the newest whole checkpoint, and sees every
    record as if it had never stopped.

    Args:
      config: of the run; a workdir keeps to the one it was started with.
      workdir: takes `config.json`, `environment.json`, `run_id`, `train.log`,
        `ledger.jsonl`, `metrics.jsonl`, `goodput.json`, `tensorboard/`, `heartbeats/`
        and `checkpoints/STEP/`, and what is generated for want of `config.data.path`
        and `config.data.tokenizer`.
      evaluate: called every `config.evaluate.every` steps with the model, the number of
        steps done, and what is to be called whenever it got on, for the watchdog; when
        resumed there once more. The numbers it returns are shown in TensorBoard. The
        model is valid only during the call.
      check_evaluation: called before the first step with the split that is evaluated;
        refuses by a `ConfigError` what `evaluate` would only find hours later.
      profile_steps: the first and the last step to trace into `profile/`.

    Raises:
      ConfigError: if the configuration does not fit the devices, the data or what
        stands in the workdir, or another run has the workdir.
      Preempted: if the run was asked to stop, by `preemption.SIGNALS` to any of its
        processes, and has saved its state.
      UnsoundError: if too many steps in a row have no finite gradient; the state is
        saved apart, in `evidence/STEP/`.
    """
    workdir = locate(workdir)
    with together():
        mesh = _check(config, workdir)
    phases = Phases()
    with contextlib.ExitStack() as stack:
        with first_alone("workdir"):
            stack.enter_context(locked(workdir))
            adopt_config(config, workdir)
            if is_first():
                write_environment(workdir)
                make_run_id(workdir)
        with together():
            check_agreement(config, workdir)
        stack.enter_context(
            Watchdog(
                workdir,
                phases,
                process=jax.process_index(),
                count=jax.process_count(),
                stall_seconds=config.train.stall_seconds,
                say=say_in(workdir, everyone=True),
            )
        )
        stop_asked = stack.enter_context(preemption())
        state, stopped = _run(
            config,
            workdir,
            mesh,
            phases,
            stop_asked=stop_asked,
            evaluate=evaluate,
            check_evaluation=check_evaluation,
            profile_steps=profile_steps,
        )
    flush()
    meet("the run ends")  # if one ended long before the others, JAX would end these
    if stopped:
        say_in(workdir)(stopped)
        raise Preempted
    return state


def _check(config: Config, workdir: AnyPath) -> Mesh:
    """The mesh of a run whose configuration fits, before anything is written."""
    wandb_is_asked_for()  # it is told now if it is not there
    mesh = make_mesh(config.mesh)
    check_rows(config.train.batch_size, mesh)
    if config.evaluate.every:
        check_rows(config.evaluate.batch_size, mesh, key="evaluate.batch_size")
    try:
        check_replication(config, mesh)
    except ConfigError:
        raise
    except ValueError as error:  # sizes that do not fit each other, say
        raise ConfigError(str(error)) from error
    if not any((workdir / "checkpoints").glob("[0-9]*")):
        check_initial(config)
    return mesh


def _run(
    config: Config,
    workdir: AnyPath,
    mesh: Mesh,
    phases: Phases,
    *,
    stop_asked: Callable[[], bool],
    evaluate: Evaluate | None,
    check_evaluation: Callable[[ShardSource], None] | None,
    profile_steps: tuple[int, int] | None,
) -> tuple[TrainState, str]:
    """The last state, and what is to be said if the run was asked to stop."""
    with first_alone("data"):
        packed = prepare_data(config, workdir)
        source = open_split(config, packed, "train")
        tokenizer = prepare_tokenizer(config, workdir, source)
        check_beginning(config, packed)
        if config.evaluate.every:  # it is there and fits, before hours have passed
            evaluated = check_split(config, packed, tokenizer)
            if check_evaluation is not None:
                check_evaluation(evaluated)
        # Inside: what the first process counts and keeps, the others read.
        batches = make_batches(config, mesh, source, tokenizer)
    with together():
        check_same_data(source.manifest, tokenizer)
    say = say_in(workdir)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep=config.train.keep,
        keep_every=config.train.keep_every,
        say=say,
    )
    folder, local_every = config.train.local_folder, config.train.local_every
    local = LocalCheckpoints(Path(folder) if folder else None, workdir)
    steps, every = config.train.steps, config.evaluate.every
    if words := batches.describe():
        say(words)
    with jax.set_mesh(mesh), checkpoints, local:
        checkpoints.clear_remains()
        goodput = Goodput(workdir, phases) if is_first() else None
        phases.enter("restore", 0)
        state, start = first_state(config, mesh, checkpoints, local=local)
        check_towers(source.encoding, state.params, packed)
        local.drop_after(start)
        if start:
            say(f"resumed at step {start}")
        graphdef, _ = split_model(config)
        if start >= steps:
            say(f"nothing left to do: {start} of {steps} steps are done")
        if profile_steps and not start < profile_steps[0] <= steps:
            say(
                f"no trace from step {profile_steps[0]} on: this start does the steps "
                f"{start + 1} to {steps}"
            )
        best = Best(checkpoints, config.evaluate.best, start=start)
        ledger = Ledger(
            workdir,
            data={
                "name": source.name,
                "split": source.split,
                "manifest": source.manifest,
                "records": batches.records,
            },
            subjects=batches.subjects,
            start=start,
            began_with=locate(config.init_from) if config.init_from else None,
        )
        write_config(config, workdir)
        train_step = make_train_step(config, mesh)
        batch_iterator = batches.iterate(start)
        before: Dispatched | None = None

        def anybody_asks() -> Asked:
            wish = Asked(save=False, stop=stop_asked())
            return Asked.by_any(exchange(wish.told(busy_seconds=0.0)))

        # Asked to stop while it was restored, it does not compile first.
        asked, saved = anybody_asks(), time.monotonic()
        health = Health(
            max_skipped=config.train.max_skipped_steps,
            clip_ids=[entry.clip_id for entry in source.entries],
            say=say_in(workdir, everyone=True),
        )
        with (
            Metrics(
                workdir,
                start=start,
                log_every=config.train.log_every,
                flops=sum(train_flops(config).values()),
            ) as metrics,
            training_bar(start, steps) as show,
            _evidence(workdir, phases, lambda: state, say),
        ):

            def save(step: int, to: Checkpoints | LocalCheckpoints) -> None:
                nonlocal saved
                phases.enter("save", step)
                flush()  # what is logged of these steps is kept with them
                ledger.enter(step)  # before: nothing is kept of whom it does not tell
                to.save(step, items_of(state))
                if to is checkpoints:
                    saved = time.monotonic()
                if goodput:
                    goodput.keep()

            def finish(done: Dispatched) -> Asked:
                row = metrics.finish(done)
                show(row)
                health.judge(row, done.index)
                if goodput:
                    goodput.tick()
                return Asked.by_any(done.wishes)

            def got_on() -> None:
                """Between two batches of an evaluation."""
                phases.get_on()
                if goodput:
                    goodput.tick()
                if anybody_asks().stop:
                    raise Preempted

            def look(step: int, *, kept: bool) -> bool:
                """Evaluates, and keeps the best; False if asked to stop meanwhile."""
                assert evaluate is not None
                phases.enter("evaluate", step)
                model = nnx.merge(graphdef, state.params)
                try:
                    found = numbers(evaluate(model, step, got_on))
                except Preempted:
                    if not kept:
                        save(step, checkpoints)
                    return False
                metrics.board(step, found)
                if best.beaten(step, found):
                    if not kept:
                        save(step, checkpoints)
                    best.enter(step, found)
                return True

            # Steps count from 1, so none is step 0.
            profile = Profile(*(profile_steps or (0, 0)), workdir, say_in(workdir))
            for step in range(start, max(start, steps) + 1):
                evaluates = every > 0 and step > 0 and step % every == 0
                stops = asked.stop and step < steps
                due = asked.save or step % config.train.save_every == 0
                saves = due or stops or step >= steps
                saves_here = folder and local_every and step % local_every == 0
                # A step is checked and logged before what it led to is kept.
                if before is not None and (saves or saves_here or evaluates):
                    phases.enter("step", step)
                    asked, before = finish(before), None
                kept = step == start and not local.restored
                if saves and not kept:
                    save(step, checkpoints)
                    kept = True
                elif saves_here and not kept:
                    save(step, local)
                # At `start` too: a run may have been killed while it evaluated.
                # Asked to stop, a run has seconds: this is done when it goes on.
                if evaluates and not stops and evaluate is not None:
                    stops = not look(step, kept=kept)
                if stops or step >= steps:
                    break

                profile.before(step + 1, state)
                checkpoints.check()
                local.check()
                phases.enter("data", step)
                busy_from = time.perf_counter()
                batch = next(batch_iterator)
                data_seconds = time.perf_counter() - busy_from
                phases.enter("compile" if step == start else "step", step)
                # Nothing goes to or from the devices but what is put there in sight.
                with jax.transfer_guard("disallow"):
                    state, sums = train_step(
                        state, place(batch, mesh, rows=config.train.batch_size)
                    )
                phases.enter("step", step)
                late = 0 < config.train.save_seconds < time.monotonic() - saved
                if late:  # asked once: the answer comes two steps later
                    saved = time.monotonic()
                wishes = Asked(save=late and is_first(), stop=stop_asked())
                busy = time.perf_counter() - busy_from
                told = exchange(wishes.told(busy_seconds=busy))

                # The devices are at work on this step: time to write of the last one.
                if before is not None:
                    asked = finish(before)
                before = Dispatched(
                    step=step + 1,
                    sums=sums,
                    index=np.asarray(batch.index),
                    data_seconds=data_seconds,
                    wishes=told,
                )
            profile.stop(state)
        if goodput:
            if not stops:
                goodput.keep()
            say(goodput.describe())
    if stops:
        return state, (
            f"asked to stop, saved at step {step} of {steps}; the same command goes on "
            f"from there"
        )
    if step == steps:
        local.forget()
        say(f"done: {steps} steps, checkpoint {workdir / 'checkpoints' / str(steps)}")
    return state, ""


@contextlib.contextmanager
def _evidence(
    workdir: AnyPath,
    phases: Phases,
    state: Callable[[], TrainState],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Keeps the state of a run that is stopped because it is unsound, apart."""
    try:
        yield
    except UnsoundError:
        last = state()
        step = int(jax.device_get(last.step))
        phases.enter("save", step)
        with Checkpoints(workdir / EVIDENCE, keep=1, say=say) as apart:
            apart.save(step, items_of(last))
        say(f"the state is kept for inspection: {workdir / EVIDENCE / str(step)}")
        raise
