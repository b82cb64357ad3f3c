"""All processes of a run meet at one address before JAX is told of it.

JAX's own start waits for everybody as well, but of those who do not come it says
nothing, and ends the others from within C++.
"""

from collections.abc import Mapping
import contextlib
import errno
import json
import os
import socket
import time
from typing import Any

POLL_SECONDS = 0.5
# Beyond the time of the first process, in which it tells the others why it gave up.
PATIENCE_SECONDS = 10.0
LINE_BYTES = 65536  # of one message


class RendezvousError(Exception):
    """Who did not come, or does not fit to the others."""


def gather(address: str, *, count: int, index: int, seconds: float) -> None:
    """Returns in all of `count` processes when every one of them is here.

    Args:
      address: HOST:PORT; process 0 listens on the port, which is free again afterwards.
      count: of the processes.
      index: of this one, from 0.
      seconds: that process 0 waits for the others.

    Raises:
      RendezvousError: in all that came, if some did not, or said another count, or the
        index of another one; or if the port of process 0 is in use.
    """
    if count == 1:
        return
    me = {
        "count": count,
        "index": index,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    fault = _come(address, me, seconds) if index else _receive(address, count, seconds)
    if fault:
        raise RendezvousError(fault)


def _receive(address: str, count: int, seconds: float) -> str:
    """What is wrong, "" if nothing is; told to all that came."""
    port = int(address.rpartition(":")[2])
    until = time.monotonic() + seconds
    came: dict[int, tuple[socket.socket, Mapping[str, Any]]] = {}
    fault = ""
    with contextlib.ExitStack() as stack:
        try:
            door = stack.enter_context(_listen(port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return (
                f"port {port} of {socket.gethostname()} cannot be listened on "
                f"({error.strerror}); end what uses it, or choose another port"
            )
        while not fault:
            _drop_gone(came)
            if len(came) == count - 1:
                break
            left = until - time.monotonic()
            if left <= 0:
                missing = sorted(set(range(1, count)) - set(came))
                fault = (
                    f"of {count} processes, {_numbers(missing)} did not come to "
                    f"{address} within {seconds:.0f} s"
                )
                break
            door.settimeout(min(left, POLL_SECONDS))
            try:
                visitor, _ = door.accept()
            except TimeoutError:
                continue
            stack.enter_context(visitor)
            said = _read(visitor, POLL_SECONDS * 4)
            if said is None or not _is_of_a_run(said):
                visitor.close()  # somebody else, a scan of ports say; or it comes again
                continue
            _drop_gone(came)
            fault = _misfit(said, count, came)
            known = -1 if said["index"] in came else said["index"]
            came[known] = visitor, said
        for visitor, _ in came.values():
            _write(visitor, {"fault": fault})
        for visitor, _ in came.values():
            _read(visitor, POLL_SECONDS * 4)  # who hangs up first holds the port
    return fault


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
    return socket.create_server(("", port), backlog=1024)


def _drop_gone(came: dict[int, tuple[socket.socket, Mapping[str, Any]]]) -> None:
    """Who gave up, or was killed and is started again, is not here."""
    for index in [index for index, guest in came.items() if not _is_here(guest[0])]:
        del came[index]


def _is_here(visitor: socket.socket) -> bool:
    """Whether one that came still waits: it says nothing more, but it hangs up."""
    visitor.setblocking(False)
    try:
        return bool(visitor.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _is_of_a_run(said: Mapping[str, Any]) -> bool:
    numbers = (said.get("count"), said.get("index"), said.get("pid"))
    return all(isinstance(x, int) for x in numbers) and "host" in said


def _misfit(
    said: Mapping[str, Any],
    count: int,
    came: Mapping[int, tuple[socket.socket, Mapping[str, Any]]],
) -> str:
    who = f"pid {said['pid']} on {said['host']}"
    if said["count"] != count:
        return f"process 0 is one of {count} processes, {who} one of {said['count']}"
    if said["index"] in came:
        other = came[said["index"]][1]
        return (
            f"two processes are number {said['index']}: {who}, and "
            f"pid {other['pid']} on {other['host']}"
        )
    return ""


def _come(address: str, me: Mapping[str, Any], seconds: float) -> str:
    """What process 0 says is wrong, "" if nothing is."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            door = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=POLL_SECONDS * 10
            )
        except OSError as error:
            if time.monotonic() > until:
                return f"nobody answered at {address} for {seconds:.0f} s ({error})"
            time.sleep(POLL_SECONDS)
            continue
        with door:
            _write(door, me)
            said = _read(door, max(0.0, until - time.monotonic()) + PATIENCE_SECONDS)
        if said is not None:
            return str(said.get("fault", ""))
        if time.monotonic() > until:
            return f"process 0 at {address} hung up, or did not answer"
        time.sleep(POLL_SECONDS)  # it may be that of an earlier start


def _write(to: socket.socket, words: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # gone: who waits for it will say so
        to.sendall(json.dumps(words).encode() + b"\n")


def _read(of: socket.socket, seconds: float) -> Mapping[str, Any] | None:
    """The message that comes within so many seconds, if it is one."""
    of.settimeout(seconds)
    try:
        with of.makefile("rb") as lines:
            said = json.loads(lines.readline(LINE_BYTES))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _numbers(found: list[int]) -> str:
    shown = ", ".join(map(str, found[:8]))
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"number{'s' * (len(found) > 1)} {shown}{more}"
