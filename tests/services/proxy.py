"""A TCP proxy that adds latency, cuts connections, or swallows everything."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self

_CHUNK_BYTES = 256 * 1024
_HELD_BYTES = 8 * 1024 * 1024
"""What one direction of a connection may hold while it is late or in the black hole."""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: the close is a reset, as from a lost machine


class _Pipe:
    """One direction of a connection: what arrives leaves `delay` later, in order."""

    def __init__(self, proxy: TcpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Condition()

    async def read(self) -> None:
        while True:
            chunk = await self._reader.read(_CHUNK_BYTES)
            async with self._changed:
                await self._changed.wait_for(lambda: self._held_bytes < _HELD_BYTES)
                self._held.append((time.monotonic() + self._proxy.delay_seconds, chunk))
                self._held_bytes += len(chunk)
                self._changed.notify_all()
            if not chunk:
                return

    async def write(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._held))
                due, chunk = self._held.popleft()
                self._held_bytes -= len(chunk)
                self._changed.notify_all()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._proxy.passage.wait()
            if not chunk:
                with suppress(OSError):
                    self._writer.write_eof()
                return
            allowed, is_last = self._proxy.spend(len(chunk))
            self._writer.write(chunk[:allowed])
            await self._writer.drain()
            if is_last:
                self._proxy.cut_now()
                return


class TcpProxy:
    """Stands between clients and a target, on a free loopback port.

    Attributes:
        host: `127.0.0.1:PORT`.
        delay_seconds: What each direction adds: half of the round trip.
        accepted: The connections accepted so far.
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
        self._writers: set[asyncio.StreamWriter] = set()
        self._budget: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self.passage = asyncio.Event()
        self.passage.set()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def start(self) -> Self:
        """Start it; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Cut all connections and stop listening."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """The connections open now."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Reset all connections now; new ones are accepted."""
        self._call(self.cut_now)

    def blackhole(self, on: bool) -> None:  # noqa: FBT001 - a switch
        """Let nothing through in either direction while connections stay open; or let it go on."""
        self._call(self.passage.clear if on else self.passage.set)

    def cut_after(self, count: int) -> None:
        """Reset all connections once `count` more bytes have gone through, both directions together."""

        def arm() -> None:
            self._budget = count

        self._call(arm)

    def _call(self, function: Callable[[], object]) -> None:
        """Run something in the loop and wait until it is done."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(10):
            raise TimeoutError("the proxy does not answer")

    def spend(self, count: int) -> tuple[int, bool]:
        """How many of `count` bytes may pass, and whether they are the last."""
        if self._budget is None:
            return count, False
        allowed = min(count, self._budget)
        self._budget -= allowed
        if self._budget > 0:
            return allowed, False
        self._budget = None
        return allowed, True

    def cut_now(self) -> None:
        """Reset all connections; in the loop's thread."""
        for writer in list(self._writers):
            connection = writer.get_extra_info("socket")
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=_CHUNK_BYTES)
        await self._end.wait()
        server.close()
        self.cut_now()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_CHUNK_BYTES)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, far_writer}
        self._writers |= writers
        for one in writers:
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipes = (_Pipe(self, reader, far_writer), _Pipe(self, far_reader, writer))
        try:
            async with asyncio.TaskGroup() as group:
                for pipe in pipes:
                    group.create_task(pipe.read())
                    group.create_task(pipe.write())
        except* OSError:
            pass  # one end is gone: so is the connection
        finally:
            self._writers -= writers
            for one in writers:
                one.transport.abort()
