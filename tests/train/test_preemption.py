import os
import signal
import threading

import numpy as np
import pytest

from deemo_jax.train.preemption import SIGNALS, Asked, preemption


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_does_not_end_the_process(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with preemption() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        # A second one ends it, as it would have without.
        assert [signal.getsignal(each) for each in SIGNALS] == before
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_without_a_signal_nothing_is_asked():
    before = [signal.getsignal(each) for each in SIGNALS]
    with preemption() as asked:
        assert [signal.getsignal(each) for each in SIGNALS] != before
        assert not asked()
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_another_thread_hears_no_signals():
    found = []

    def run():
        with preemption() as asked:
            found.append(asked())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


NOTHING = Asked(save=False, stop=False)


def test_what_one_process_asks_all_do():
    save, stop = Asked(save=True, stop=False), Asked(save=False, stop=True)
    for asking, expected in (
        ((NOTHING, NOTHING), NOTHING),
        ((NOTHING, stop), stop),
        ((save, NOTHING), save),
        ((stop, save), Asked(save=True, stop=True)),
    ):
        told = [each.told(busy_seconds=0.0) for each in asking]
        assert Asked.by_any(np.stack(told)) == expected


def test_being_busy_asks_for_nothing():
    assert Asked.by_any(NOTHING.told(busy_seconds=9.5)[None]) == NOTHING
