"""The ZeroMQ emitter (seed, section 3.3): messages of two parts, the topic ``status`` or ``event`` and JSON.

The socket is an XPUB, which hears of subscriptions: a PUB drops what it sends before the first has arrived, and what a
subscriber is too slow for, without a word.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import time
from collections.abc import Callable
from types import ModuleType

from ee_runner.emitters.delivery import Message, QueuedEmitter, Undelivered, limits
from ee_runner.errors import ConfigurationError
from ee_runner.secrets import redact_words

FOLLOWING = 0.1
"""Seconds after the first subscription in which those for other topics, and of other subscribers, may follow."""

_IDLE = 0.05
_LOOK = 2
"""After so many seconds without a message, so many milliseconds to hear of subscribers that left meanwhile: ZeroMQ
tells of a lost connection at the second look only, and a message sent before is lost without an error."""

_LONGEST_RECONNECT = 5_000
_HEARTBEAT = 5_000
_SILENCE = 15_000
"""Milliseconds until a receiver that does not answer heartbeats is taken for gone."""


def emitter(url: str, *, bind: bool, closing: float | None) -> QueuedEmitter:
    """Return the emitter that connects to a subscriber's address, or binds it for subscribers to connect.

    Raises ConfigurationError for an address that is none, or is taken, and when pyzmq is missing.
    """
    if importlib.util.find_spec("zmq") is None:
        raise ConfigurationError("runner_zmq_url needs pyzmq, which is not installed: pip install ee-runner[zmq]")
    return QueuedEmitter("zmq", ZmqTransport(url, bind=bind), limits(closing))


class ZmqTransport:
    """Publishes while somebody is subscribed to something, and waits for that otherwise.

    Arrived means: handed to ZeroMQ while there was a subscriber. PUB and SUB know no acknowledgement.
    """

    def __init__(self, url: str, *, bind: bool) -> None:
        import zmq

        self._shown = redact_words((url,))[0]
        self._topics: set[bytes] = set()
        self._last_sent = 0.0
        self._waking, self._woken = socket.socketpair()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._woken.fileno(), zmq.POLLIN)
        try:
            self._set_up(zmq)
            (self._socket.bind if bind else self._socket.connect)(url)
        except (zmq.ZMQError, ValueError) as error:
            self.close(0)
            reason = error.strerror if isinstance(error, zmq.ZMQError) else error
            told = redact_words((f"{reason}",))[0]  # it repeats the address
            raise ConfigurationError(f"runner_zmq_url: {self._shown} can not be used: {told}.") from None

    def send(self, message: Message, within: float) -> None:
        import zmq

        self._await_subscription(time.monotonic() + within)
        try:
            self._socket.send_multipart((message.topic, message.body), zmq.NOBLOCK)
        except zmq.Again:
            raise Undelivered(f"{self._shown}: a subscriber does not keep up.") from None
        self._last_sent = time.monotonic()

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # the delivery has ended meanwhile
            self._waking.send(b"\0")

    def close(self, within: float) -> None:
        self._socket.close(linger=int(within * 1000))
        self._context.term()
        self._waking.close()
        self._woken.close()

    def _set_up(self, zmq: ModuleType) -> None:
        """Make the socket tell of what a PUB keeps to itself."""
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)  # full: an error, not silence
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # a connection that is lost ends its subscriptions
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_RECONNECT)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE)

    def _await_subscription(self, until: float) -> None:
        if time.monotonic() - self._last_sent > _IDLE:
            self._poller.poll(_LOOK)
        self._take_subscriptions()
        if not self._topics:
            self._listen(until, lambda: bool(self._topics))
            self._listen(min(until, time.monotonic() + FOLLOWING), lambda: not self._topics)
        if not self._topics:
            raise Undelivered(f"{self._shown}: nobody has subscribed.")

    def _listen(self, until: float, is_enough: Callable[[], bool]) -> None:
        """Take in subscriptions until it is enough, or the time is over, or the delivery is aborted."""
        while not is_enough() and (left := until - time.monotonic()) > 0:
            if self._woken.fileno() in dict(self._poller.poll(int(left * 1000) + 1)):
                return
            self._take_subscriptions()

    def _take_subscriptions(self) -> None:
        import zmq

        with contextlib.suppress(zmq.Again):
            while True:
                change = self._socket.recv(zmq.NOBLOCK)
                if change[:1] == b"\1":
                    self._topics.add(change[1:])
                elif change[:1] == b"\0":
                    self._topics.discard(change[1:])
