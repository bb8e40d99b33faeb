"""Jobs in an asyncio event loop: each has a thread of its own, and is awaited, followed and cancelled from the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any

from ee_runner import api
from ee_runner.attachment import Attachment
from ee_runner.errors import LaunchError
from ee_runner.executor import Cancellation
from ee_runner.runner import Runner

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from ee_runner.keywords import JobKeywords


def arun(**options: Unpack[JobKeywords]) -> AsyncJob:
    """Return a job that starts when it is first awaited, entered or iterated; the keywords are those of `run`.

    ``await job`` gives the Runner when the job has ended. ``async with`` starts it, and at the end of the block waits
    for it, or cancels it when the block raises. ``async for event in job`` follows its events. Cancelling the task
    that awaits a job cancels the job, and waits until nothing of it is left. Callbacks are called in the job's thread.
    """
    return AsyncJob(options)


class AsyncJob:
    """One job of `arun`; it raises, where it is awaited, what `run` raises."""

    def __init__(self, options: JobKeywords) -> None:
        self._options = options
        self._cancellation = Cancellation()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Future[Runner]
        self._done: asyncio.Future[Runner]

    async def __aenter__(self) -> AsyncJob:
        await self._following(self._started())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self
        else:
            await self.cancel()

    def __await__(self) -> Generator[Any, None, Runner]:
        return self._following(self._ended()).__await__()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        runner = await self._following(self._started())
        changed = asyncio.Event()
        watch = runner.log.watch(lambda: self._in_loop(changed.set))
        with contextlib.closing(watch):
            while True:
                changed.clear()
                event = watch.take()
                if event is not None:
                    yield event
                elif watch.ended:
                    return
                else:
                    await self._following(changed.wait())

    async def cancel(self) -> None:
        """Ask the job to stop and wait until it has ended; what it raises on its way is left to who awaits it."""
        self._cancellation.request()
        await self._gone()

    async def _started(self) -> Runner:
        self._start()
        return await asyncio.shield(self._ready)

    async def _ended(self) -> Runner:
        self._start()
        return await asyncio.shield(self._done)

    async def _following(self, awaited: Any) -> Any:
        """Wait for something of the job; the cancelling of the waiting task cancels the job."""
        try:
            return await awaited
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def _gone(self) -> None:
        """Wait for the end, however often the waiting task is cancelled: what is asked to stop is seen to its end."""
        while self._loop is not None and not self._done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self._done})
        if self._loop is not None and not self._done.cancelled():
            self._done.exception()  # it is retrieved

    def _start(self) -> None:
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._ready, self._done = self._loop.create_future(), self._loop.create_future()
        try:
            threading.Thread(target=self._work, name="ee_runner job").start()
        except RuntimeError as error:
            self._loop = None
            raise LaunchError(f"No thread can be started for the job: {error}.") from error

    def _work(self) -> None:
        try:
            runner = api.init_runner(attachment=Attachment(cancellation=self._cancellation), **self._options)
            runner.log.begin()
            self._in_loop(lambda: self._ready.set_result(runner))
            runner.run()
        except BaseException as error:
            failure = error
            self._in_loop(lambda: self._fail(failure))
        else:
            self._in_loop(lambda: self._done.set_result(runner))

    def _fail(self, error: BaseException) -> None:
        for future in (self._ready, self._done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # it is raised where the job is awaited, if it is

    def _in_loop(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            assert self._loop is not None  # noqa: S101 - the thread starts after it is set
            self._loop.call_soon_threadsafe(call)
