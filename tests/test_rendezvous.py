"""Threads in place of processes: what they say to each other goes through sockets."""

from concurrent.futures import ThreadPoolExecutor
import json
import socket
import time

import pytest

from deemo_jax.rendezvous import RendezvousError, gather


@pytest.fixture
def address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def meet(address, *each, seconds=20.0, before=lambda index: None):
    """What each `(count, index)` is told, "" if all is well."""

    def come(place):
        count, index = place
        before(index)
        try:
            gather(address, count=count, index=index, seconds=seconds)
        except RendezvousError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(come, each))


@pytest.mark.parametrize("late", [0, 1])
def test_all_that_come_go_on_in_whatever_order(address, late):
    places = [(5, index) for index in range(5)]
    told = meet(address, *places, before=lambda index: time.sleep(index == late))
    assert told == [""] * 5
    # The port is free for JAX, and for another start of the same run.
    assert meet(address, *places) == [""] * 5


def test_one_process_meets_nobody():
    gather("nowhere.invalid:1", count=1, index=0, seconds=0.0)


def test_those_who_do_not_come_are_named_to_all_who_did(address):
    told = meet(address, (6, 0), (6, 2), (6, 5), seconds=1.6)
    said = f"of 6 processes, numbers 1, 3, 4 did not come to {address} within 2 s"
    assert told == [said] * 3
    told = meet(address, (30, 0), seconds=0.1)
    assert "numbers 1, 2, 3, 4, 5, 6, 7, 8 and 21 more did not come" in told[0]


def test_where_nobody_answers(address):
    told = meet(address, (2, 1), seconds=0.4)[0]
    assert told.startswith(f"nobody answered at {address} for 0 s (")


def test_two_of_the_same_number_are_told_all(address):
    told = meet(address, (3, 0), (3, 1), (3, 1))
    assert len(set(told)) == 1
    assert told[0].startswith("two processes are number 1: pid ")


def leave(address, count, index):
    """Comes, says who it is, and is gone: killed, say."""
    host, port = address.split(":")
    me = {"count": count, "index": index, "host": "gone", "pid": 1}
    while True:
        try:
            with socket.create_connection((host, int(port))) as door:
                door.sendall(json.dumps(me).encode() + b"\n")
                time.sleep(0.3)
            return
        except OSError:
            time.sleep(0.05)


def test_one_that_came_and_is_gone_may_come_again(address):
    def before(index):
        if index == 1:
            leave(address, 3, 1)
        elif index == 2:
            time.sleep(1.5)

    assert meet(address, (3, 0), (3, 1), (3, 2), before=before) == [""] * 3


def test_one_that_came_and_is_gone_is_missed(address):
    def before(index):
        if index == 2:
            leave(address, 3, 1)
            time.sleep(0.3)

    told = meet(address, (3, 0), (3, 2), seconds=2.0, before=before)
    said = f"of 3 processes, number 1 did not come to {address} within 2 s"
    assert told == [said] * 2


def test_one_of_another_number_of_processes_is_told_all(address):
    told = meet(address, (3, 0), (2, 1))
    assert len(set(told)) == 1
    assert told[0].startswith("process 0 is one of 3 processes, pid ")
    assert told[0].endswith(" one of 2")


def test_a_port_in_use_is_named(address):
    port = int(address.rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("", port))
        taken.listen()
        told = meet(address, (2, 0), seconds=1.0)[0]
    assert told.startswith(f"port {port} of {socket.gethostname()} cannot be listened")
    assert told.endswith("end what uses it, or choose another port")


def test_a_stranger_who_knocks_is_let_go(address):
    host, port = address.split(":")

    def knock(index):
        if index == 0:
            return
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"index": 1}\n', b""):
            while True:
                try:
                    with socket.create_connection((host, int(port))) as door:
                        door.sendall(words)
                    break
                except OSError:
                    time.sleep(0.05)

    assert meet(address, (2, 0), (2, 1), before=knock) == ["", ""]
