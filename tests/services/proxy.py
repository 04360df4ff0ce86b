"""A TCP proxy that adds latency, cuts connections, or swallows everything.

What goes through stays in the kernel (`splice(2)`, from socket to pipe to socket), so that the proxy takes
little of the machine from those who are measured through it.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self

_CHUNK_BYTES = 1024 * 1024
_PIPE_BYTES = 1024 * 1024  # what an unprivileged process may have; the kernel counts whole buffers against it
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: the close is a reset, as from a lost machine
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class _Stream:
    """One direction of a connection: what arrives leaves a delay later, in order.

    Attributes:
        is_full: Nothing more can be taken in before something has left.
        is_blocked: The target takes no more now.
        has_ended: The source has said that nothing follows.
        is_closed: That was told to the target.
        is_awaited: It will be looked after when something of it is due.
    """

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self._out, self._in = os.pipe2(os.O_NONBLOCK)
        with suppress(OSError):  # the system's default will do: 64 KiB
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._held: deque[tuple[float, int]] = deque()
        self.is_full = self.is_blocked = self.has_ended = self.is_closed = self.is_awaited = False

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    def take_in(self, delay_seconds: float) -> float | None:
        """Take what has arrived; returns when it is due, None if there was nothing or no room."""
        try:
            count = os.splice(self._source.fileno(), self._in, _CHUNK_BYTES, flags=_SPLICE)
        except BlockingIOError:
            self.is_full = bool(self._held)
            return None
        self.has_ended = count == 0
        due = time.monotonic() + delay_seconds
        self._held.append((due, count))
        return due

    def let_out(self, allowance: Callable[[int], int]) -> float | None:
        """Let out what is due, as much of it as is allowed; returns when the next is due, None for none."""
        self.is_blocked = False
        while self._held:
            due, count = self._held[0]
            if due > time.monotonic():
                return due
            if count == 0:
                with suppress(OSError):
                    self._target.shutdown(socket.SHUT_WR)
                self.is_closed = True
                self._held.popleft()
                return None
            allowed = allowance(count)
            if not allowed:
                return None
            try:
                passed = os.splice(self._out, self._target.fileno(), allowed, flags=_SPLICE)
            except BlockingIOError:
                allowance(-allowed)
                self.is_blocked = True
                return None
            allowance(passed - allowed)
            self.is_full = False
            if passed < count:
                self._held[0] = (due, count - passed)
            else:
                self._held.popleft()
        return None


class _Connection:
    """A client's connection and ours to the target, and the stream each way."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.ends = (near, far)
        for end in self.ends:
            end.settimeout(0)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams = (_Stream(near, far), _Stream(far, near))

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for stream in self.streams:
            stream.close()

    def reset(self) -> None:
        """Let the close be one that loses what is under way."""
        for end in self.ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def interest(self, side: int) -> int:
        """What one of the ends is waited for."""
        coming, going = self.streams[side], self.streams[1 - side]
        reads = 0 if coming.is_full or coming.has_ended else selectors.EVENT_READ
        return reads | (selectors.EVENT_WRITE if going.is_blocked else 0)


class TcpProxy:
    """Stands between clients and a target, on a free loopback port.

    Attributes:
        host: `127.0.0.1:PORT`.
        delay_seconds: What each direction adds: half of the round trip.
        accepted: The connections accepted so far.
        passed_bytes: What has gone through so far, both directions together.
        stalled: Set once `stall_after` lets nothing more through.
    """

    def __init__(self, target: str, latency_seconds: float = 0.0) -> None:
        """Make a proxy; `start` starts it.

        Args:
            target: `host:port`.
            latency_seconds: What is added to each round trip.
        """
        address, _, port = target.rpartition(":")
        self._target = (address, int(port))
        self.delay_seconds = latency_seconds / 2
        self.accepted = 0
        self._connections: set[_Connection] = set()
        self.passed_bytes = 0
        self.stalled = threading.Event()
        self._budget: int | None = None
        self._stalls = False
        self._is_black_hole = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.settimeout(0)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._specs: deque[Callable[[], object]] = deque()
        self._due: list[tuple[float, int, _Connection, _Stream]] = []
        self._number = itertools.count()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def start(self) -> Self:
        """Start it; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Cut all connections and stop listening."""

        def end() -> None:
            self._is_ending = True

        if self._thread.is_alive():
            self._call(end)
            self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """The connections open now."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset all connections now; new ones are accepted."""
        self._call(self._cut)

    def retarget(self, target: str) -> None:
        """Lead new connections elsewhere, as a name or an address that moves; those that are open stay.

        Args:
            target: `host:port`.
        """
        address, _, port = target.rpartition(":")

        def move() -> None:
            self._target = (address, int(port))

        self._call(move)

    def blackhole(self, on: bool) -> None:  # noqa: FBT001 - a switch
        """Let nothing through in either direction while connections stay open; or let it go on."""

        def switch() -> None:
            self._is_black_hole = on
            for connection in list(self._connections) if not on else ():
                for stream in connection.streams:
                    self._let_out(connection, stream)

        self._call(switch)

    def cut_after(self, count: int) -> None:
        """Reset all connections once `count` more bytes have gone through, both directions together."""

        def arm() -> None:
            self._budget, self._stalls = count, False

        self._call(arm)

    def stall_after(self, count: int) -> None:
        """Be a black hole once `count` more bytes have gone through, both directions together."""

        def arm() -> None:
            self._budget, self._stalls = count, True

        self._call(arm)

    def _call(self, function: Callable[[], object]) -> None:
        """Run something in the proxy's thread and wait until it is done."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._specs.append(run)
        self._waker.send(b"!")
        if not done.wait(10):
            raise TimeoutError("the proxy does not answer")

    # All below runs in the proxy's thread.

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakened, selectors.EVENT_READ)
        try:
            while not self._is_ending:
                self._turn()
        finally:
            self._cut()
            for end in (self._listener, self._waker, self._wakened, self._selector):
                end.close()

    def _turn(self) -> None:
        wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
        for key, events in self._selector.select(wait):
            if key.fileobj is self._wakened:
                self._wakened.recv(64)
                while self._specs:
                    self._specs.popleft()()
            elif key.fileobj is self._listener:
                self._accept()
            else:
                connection, side = key.data
                if connection in self._connections:
                    self._serve(connection, side, events)
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, connection, stream = heapq.heappop(self._due)
            stream.is_awaited = False
            self._let_out(connection, stream)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        self.accepted += 1
        try:
            far = socket.create_connection(self._target, timeout=10)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            near.close()
            return
        connection = _Connection(near, far)
        self._connections.add(connection)
        for side, end in enumerate(connection.ends):
            self._selector.register(end, selectors.EVENT_READ, (connection, side))

    def _serve(self, connection: _Connection, side: int, events: int) -> None:
        coming, going = connection.streams[side], connection.streams[1 - side]
        if events & selectors.EVENT_WRITE:
            self._let_out(connection, going)
        if events & selectors.EVENT_READ and connection in self._connections:
            try:
                due = coming.take_in(self.delay_seconds)
            except OSError:
                self._drop(connection)  # one end is gone: so is the connection
                return
            if due is not None:
                self._await(due, connection, coming)
            self._watch(connection)

    def _let_out(self, connection: _Connection, stream: _Stream) -> None:
        if self._is_black_hole or connection not in self._connections:
            return
        try:
            due = stream.let_out(self._allow)
        except OSError:
            self._drop(connection)
            return
        if self._budget == 0:
            self._budget = None
            if self._stalls:
                self._is_black_hole = True
                self.stalled.set()
            else:
                self._cut()
        elif all(one.is_closed for one in connection.streams):
            self._drop(connection)
        else:
            if due is not None:
                self._await(due, connection, stream)
            self._watch(connection)

    def _allow(self, count: int) -> int:
        """How many of so many bytes may pass; they are taken from the budget. What did not pass goes back."""
        allowed = count if self._budget is None else min(count, self._budget)
        if self._budget is not None:
            self._budget -= allowed
        self.passed_bytes += allowed
        return allowed

    def _await(self, due: float, connection: _Connection, stream: _Stream) -> None:
        if not stream.is_awaited:
            stream.is_awaited = True
            heapq.heappush(self._due, (due, next(self._number), connection, stream))

    def _watch(self, connection: _Connection) -> None:
        for side, end in enumerate(connection.ends):
            wanted = connection.interest(side)
            registered = end.fileno() in self._selector.get_map()
            if wanted and not registered:
                self._selector.register(end, wanted, (connection, side))
            elif not wanted and registered:
                self._selector.unregister(end)
            elif wanted and self._selector.get_key(end).events != wanted:
                self._selector.modify(end, wanted, (connection, side))

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.reset()
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        for end in connection.ends:
            if end.fileno() in self._selector.get_map():
                self._selector.unregister(end)
        connection.close()
