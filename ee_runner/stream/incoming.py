"""The records of a stream as they come in, and what to make of bytes that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ee_runner.errors import BadFrame, StreamError, TruncatedStream
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.input import Input, Silence
from ee_runner.stream.records import Hello, Noise, Record

SILENT_KEEPALIVES = 4
"""How many keepalives in a row may be missing before the other end counts as lost."""

_NEVER_STARTED = (
    "The other end never started: look there for a missing command, a failed login or a missing image;"
    " podman run and docker run need --interactive."
)
_CUT = (
    "The other end gave up (see its own messages) or was killed (for memory, perhaps), its output was cut or rotated,"
    " or the connection broke."
)
_SILENT = "The other end hangs, or the connection broke."
_MIXED = "Another program writes to the same stream, or the output was rotated or cut in between."


class Incoming:
    """Iterates over the records of a stream, to its END.

    Bytes that are no record are passed over and told to `note` where the other end seals its records; from an older
    end they make the stream a BadFrame, as they do before the first record of one. Raises TruncatedStream for a stream
    without END, Silence and Canceled as `Input` does; every message says after which record. `greeted` is called with
    each hello. `patience` is the longest silence in seconds: None for what the other end's hello lets expect, 0 for
    any.
    """

    def __init__(
        self,
        source: Input,
        *,
        note: Callable[[str], None],
        patience: float | None = None,
        greeted: Callable[[Hello], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._note = note
        self._patience = patience
        self._greeted = greeted
        self._strange: list[Noise] = []
        self._decoder = StreamDecoder()
        source.silence = patience

    @property
    def hello(self) -> Hello | None:
        """What the other end said of itself, None for an older one."""
        return self._decoder.hello

    @property
    def position(self) -> str:
        """Where in the stream this is, as the beginning of a sentence."""
        words = self._decoder.position
        return words[:1].upper() + words[1:]

    def __iter__(self) -> Iterator[Record]:
        try:
            for data in self._source.chunks():
                for item in self._decoder.feed(data):
                    if isinstance(item, Record):
                        self._expect_no_noise()
                        yield item
                    else:
                        self._hear(item)
                if self._decoder.ended:
                    return
            for noise in self._decoder.close():
                self._strange.append(noise)
        except TruncatedStream as error:
            began = self._decoder.count or self._decoder.hello is not None
            last = f" What came last were {self._strange[-1]}." if began and self._strange else ""
            raise TruncatedStream(f"{error}{last} {_CUT if began else _NEVER_STARTED}") from error
        except BadFrame as error:
            raise BadFrame(f"{error} {_MIXED}") from error
        except Silence as error:
            raise Silence(f"{error}, {self._decoder.position}. {_SILENT}") from error

    def _hear(self, item: Noise | Hello) -> None:
        if isinstance(item, Hello):
            self._set_patience(item)
            self._tell()
            self._greeted(item)
            return
        self._strange.append(item)
        if self._decoder.hello is not None:
            self._tell()
        elif self._decoder.count:
            self._expect_no_noise()
        elif len(self._strange) > _MOST_STRANGE:
            raise StreamError(f"Instead of records the stream holds {self._strange[0]}. {_NEVER_STARTED}")

    def _tell(self) -> None:
        for noise in self._strange:
            self._note(f"passed over {noise}")
        self._strange.clear()

    def _expect_no_noise(self) -> None:
        if self._strange and self._decoder.hello is None:
            raise BadFrame(f"{self.position} came {self._strange[0]}.")

    def _set_patience(self, hello: Hello) -> None:
        if self._patience is None and hello.keepalive:
            self._source.silence = max(SILENT_KEEPALIVES * hello.keepalive, _LEAST_PATIENCE)


_MOST_STRANGE = 1000
"""Pieces of noise before the first record, after which no record is waited for any more."""

_LEAST_PATIENCE = 10.0
"""Seconds: a busy machine may be late."""
