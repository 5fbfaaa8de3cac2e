"""A mailbox through which the workers of a group get their work; its process imports no torch."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

IDLE_SECONDS = 30.0
"""Time without work after which a group lets its workers go: about what their start takes. Another group may wait for
their places."""


@ray.remote(num_cpus=0)
class Mailbox:
    """Hands each piece of work to all workers of a group, and waits until all have done it.

    An actor, since the workers run on any node. A process of another sort asks for its methods::

        mailbox = Mailbox.remote(workers=2, idle_seconds=30.0)
        ray.get(mailbox.run.remote({"number": 7}))    # True, once both workers have called `end`

    Args:
        workers: number of workers in the group.
        idle_seconds: time without work after which the mailbox closes.
    """

    def __init__(self, workers: int, idle_seconds: float) -> None:
        self._idle_seconds, self._closed = idle_seconds, False
        self._works: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(workers)]
        self._ends: asyncio.Queue[bool] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Any) -> bool:
        """Hand out a piece of work, and wait for its end.

        Args:
            work: plain data; this process would import the modules of anything else.

        Returns:
            Whether all workers have done it; False where the mailbox has closed.
        """
        # Here and not in a worker: workers which gave up waiting by their own clocks could leave others in a reduction.
        if self._timer is not None:
            self._timer.cancel()
        if self._closed:
            return False
        for waiting in self._works:
            waiting.put_nowait(work)
        for _ in self._works:
            if not await self._ends.get():
                return False
        self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._close)
        return True

    async def take(self, rank: int) -> Any:
        """A worker's next piece of work; None when no more comes."""
        return await self._works[rank].get()

    async def end(self) -> None:
        """Tell that one worker has done its part of the work."""
        self._ends.put_nowait(True)

    async def close(self) -> None:
        """Send the workers home."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        for waiting in self._works:
            waiting.put_nowait(None)
        self._ends.put_nowait(False)
