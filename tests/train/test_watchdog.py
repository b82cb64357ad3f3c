"""It beats, hears and judges; how the process then ends is tested in `tests/faults`."""

import contextlib
import dataclasses
import json
import threading
import time

import jax
import pytest

from deemo_jax.config import ConfigError
from deemo_jax.storage import locate, write_whole
from deemo_jax.train import watchdog as module
from deemo_jax.train.phases import Phases
from deemo_jax.train.watch import Beat
from deemo_jax.train.watchdog import FOLDER, Watchdog


def read(workdir):
    return json.loads((workdir / FOLDER / "0.json").read_text())


def watchdog(workdir, phases, **changes):
    known = {"process": 0, "count": 1, "stall_seconds": 1, "say": pytest.fail}
    return Watchdog(workdir, phases, **known | changes)


def test_it_beats_while_the_process_gets_on_and_says_how_it_ended(tmp_path):
    phases = Phases()
    with watchdog(tmp_path, phases):
        for step in range(8):
            phases.enter("data", step)
            time.sleep(0.25)
        found = read(tmp_path)
    assert found["count"] > 3
    assert (found["phase"], found["end"]) == ("data", "")
    assert read(tmp_path)["end"] == "done"
    with pytest.raises(OSError, match="full"), watchdog(tmp_path, phases):
        raise OSError("the disk\nis full")
    assert read(tmp_path)["end"] == "OSError: the disk is full"
    assert read(tmp_path)["code"] == 1
    with pytest.raises(ConfigError), watchdog(tmp_path, phases):
        raise ConfigError("no")
    assert read(tmp_path)["code"] == 2


def test_beats_of_an_earlier_start_are_not_heard(tmp_path):
    (tmp_path / FOLDER).mkdir()
    other = Beat(
        run=1, process=1, host="host", pid=1, count=0, phase="step", step=7,
        end="OSError: last year",
    )  # fmt: skip
    text = json.dumps(dataclasses.asdict(other))
    (tmp_path / FOLDER / "1.json").write_text(text)
    with watchdog(tmp_path, Phases(), count=2, stall_seconds=5):
        time.sleep(2.5)


@pytest.fixture
def ended(monkeypatch):
    """The exit codes that a watchdog would have ended this process with."""
    codes, over = [], threading.Event()

    def end_now(code):
        codes.append(code)
        over.wait(20)  # it would not come back

    monkeypatch.setattr(module, "end_now", end_now)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.1)
    yield codes
    over.set()


def until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def wrote(monkeypatch):
    """What the beats of the watchdogs of this process said."""
    wrote, write = [], module.write_whole

    def note(path, text):
        wrote.append(json.loads(text))
        write(path, text)

    monkeypatch.setattr(module, "write_whole", note)
    return wrote


@contextlib.contextmanager
def second_process(workdir):
    """Another process of the run, which beats, and says what is put in the dict."""
    over, says = threading.Event(), {}

    def beat():
        while not over.wait(0.1):
            with contextlib.suppress(OSError, ValueError):
                own = read(workdir)
                own |= {"process": 1, "end": "", "fault": "", "code": 0} | says
                write_whole(workdir / FOLDER / "1.json", json.dumps(own))

    thread = threading.Thread(target=beat)
    thread.start()
    yield says
    over.set()
    thread.join()


def test_the_first_process_says_what_is_wrong_until_those_that_live_know(
    tmp_path, monkeypatch, wrote, ended
):
    """It does not wait for process 2, which never came."""
    said, knows = [], {"fault": "so it is", "code": 76}
    first = watchdog(tmp_path, Phases(), count=3, stall_seconds=2, say=said.append)
    monkeypatch.setattr(first, "_last_seconds", 19.0)
    with second_process(tmp_path) as says, first:
        until(lambda: said)
        heard = len(wrote)
        time.sleep(1.5)
        assert not ended
        says |= knows
        before = time.monotonic()
        until(lambda: ended)
        assert time.monotonic() - before < 10
    assert ended[0] == 76
    assert "process 2 gave no sign of life" in said[0]
    faults = [beat["fault"] for beat in wrote[heard + 1 :]]
    assert len(faults) > 10  # the others read now and then
    assert set(faults) == {said[0].removeprefix("stopped: ").partition("; stacks")[0]}


def test_the_first_process_does_not_wait_forever_for_those_that_live(
    tmp_path, monkeypatch, ended
):
    said = []
    first = watchdog(tmp_path, Phases(), count=3, stall_seconds=2, say=said.append)
    monkeypatch.setattr(first, "_last_seconds", 1.0)
    # It need not stay for those who do not know; the timer for what hangs comes later.
    monkeypatch.setattr(first, "_leave_seconds", 15.0)
    with second_process(tmp_path), first:
        until(lambda: said)
        before = time.monotonic()
        until(lambda: ended)
        assert time.monotonic() - before < 10


@pytest.mark.parametrize("knows", [True, False])
def test_where_the_first_process_fails_it_lets_the_others_hear_of_it(
    tmp_path, monkeypatch, ended, knows
):
    first = watchdog(tmp_path, Phases(), count=2, stall_seconds=20, say=pytest.fail)
    monkeypatch.setattr(first, "_last_seconds", 15.0 if knows else 2.5)

    def fail(says):
        until(lambda: (tmp_path / FOLDER / "1.json").exists())
        if knows:
            heard = {"fault": "process 0 failed", "code": 1}
            threading.Timer(1.0, says.update, (heard,)).start()
        raise OSError("the disk is full")

    with second_process(tmp_path) as says:
        before = time.monotonic()
        with pytest.raises(OSError, match="full"), first:
            fail(says)
        waited = time.monotonic() - before
    assert (1.0 if knows else 2.5) < waited < 10


def test_a_failure_elsewhere_is_waited_for_as_long_as_a_bucket_takes(
    bucket, tmp_path, monkeypatch, ended
):
    """What XLA says comes at once; which process failed, some beats later."""
    monkeypatch.setattr(module, "BEAT_SECONDS_IN_BUCKET", 1.0)
    workdir = locate(f"{bucket}/{tmp_path.name}")
    said = []
    second = watchdog(
        workdir, Phases(), process=1, count=2, stall_seconds=60, say=said.append
    )

    def lose_the_first():
        beat = json.loads((workdir / FOLDER / "1.json").read_text())
        beat |= {"process": 0, "end": "OSError: the disk is full", "code": 1}
        path = workdir / FOLDER / "0.json"
        threading.Timer(2.0, path.write_text, (json.dumps(beat),)).start()
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo: Connection closed by peer")

    with pytest.raises(jax.errors.JaxRuntimeError), second:
        lose_the_first()
    assert ended[:1] == [1]
    assert "process 0 failed in start of step 0" in said[0]
    assert "OSError: the disk is full" in said[0]


def test_storage_that_refuses_beats_is_named_and_nobody_else(
    tmp_path, monkeypatch, ended
):
    said = []
    with watchdog(tmp_path, Phases(), count=2, stall_seconds=3, say=said.append):

        def refused(*_):
            raise OSError("stale file handle")

        monkeypatch.setattr(module, "write_whole", refused)
        monkeypatch.setattr(module, "_written_over", lambda *_: False)
        until(lambda: ended)
        monkeypatch.undo()
    assert ended[0] == 76
    assert "process 0 could write no heartbeat to" in said[0]
    assert "OSError: stale file handle" in said[0]


def test_on_a_full_disk_beats_are_written_over_the_last_one(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with watchdog(tmp_path, Phases()):
        monkeypatch.setattr(module, "write_whole", full)
        before = read(tmp_path)["count"]
        until(lambda: read(tmp_path)["count"] > before + 1)
    with pytest.raises(OSError, match="No space"), watchdog(tmp_path, Phases()):
        full()
    assert read(tmp_path)["end"] == "OSError: [Errno 28] No space left on device"
    assert read(tmp_path)["code"] == 1


def test_storage_that_hangs_is_found_by_a_thread_that_does_not_touch_it(
    tmp_path, monkeypatch, ended
):
    said, answers = [], threading.Event()
    with watchdog(tmp_path, Phases(), stall_seconds=3, say=said.append):
        monkeypatch.setattr(module, "write_whole", lambda *_: answers.wait(20))
        until(lambda: ended)
        answers.set()
    assert ended[0] == 76
    assert "process 0 could write no heartbeat to" in said[0]
    assert "it does not answer" in said[0]


def test_a_process_that_fails_while_storage_hangs_waits_for_it_no_longer(
    tmp_path, monkeypatch, ended
):
    first = watchdog(tmp_path, Phases(), count=2, stall_seconds=60, say=pytest.fail)
    asked, answers = threading.Event(), threading.Event()

    def hang(*_):
        asked.set()
        answers.wait(60)

    def fail():
        for name in ("write_whole", "read_many"):
            monkeypatch.setattr(module, name, hang)
        until(asked.is_set)
        raise OSError("stale file handle")

    before = time.monotonic()
    with pytest.raises(OSError, match="stale"), first:
        fail()
    assert time.monotonic() - before < 10
    answers.set()


def test_a_process_that_was_stopped_and_goes_on_blames_nobody(tmp_path, monkeypatch):
    class Clock:
        ahead = 0.0
        sleep = staticmethod(time.sleep)

        def monotonic(self):
            return time.monotonic() + self.ahead

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with watchdog(tmp_path, Phases(), stall_seconds=20):
        for _ in range(5):  # now one thread wakes first, now the other
            clock.ahead += 100
            time.sleep(0.7)
