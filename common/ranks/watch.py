"""The ranks watch one another: each says once in a while that it is there, and whoever ends says why.

What they say lies in the store through which torch.distributed has brought them together. A rank that is not heard of
any more, because its process was killed, its machine is gone or the network between them, is told as the end of the
job by those that are left.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from common.ranks.ends import End
from common.ranks.notices import Notices

log = logging.getLogger("visualtl")

_END, _READY, _NOTICES = "end", "ready", "notices"

#: Seconds between two signs of life, and without one after which a rank counts as gone; for which one may take to come.
INTERVAL, SILENCE, COMING = 0.5, 15.0, 600.0

# A rank is missed when it has not been heard of at so many looks; one may have come too early for its next sign. The
# time between two of them counts as silence up to this part of what is too long: when it takes longer, this process has
# been stopped (the machine suspended, the container paused), and the others most likely with it.
_LOOKS = 3
# Seconds for which a reason is looked for at most, however busy the machine is.
_AT_MOST = 20.0


class Store(Protocol):
    """What is used of torch.distributed's stores."""

    def set(self, key: str, value: str) -> None: ...
    def multi_set(self, keys: list[str], values: list[str]) -> None: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...
    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...
    def set_timeout(self, timeout: timedelta) -> None: ...
    def clone(self) -> Store: ...


class Watch:
    """One rank's part of it.

    ended: called once, in a thread of this object, with the end of another rank that failed or was stopped. notices:
    "port word", where rank 0 hears of ends by `common.ranks.notices`.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        ended: Callable[[End], None],
        interval: float = INTERVAL,
        silence: float = SILENCE,
    ) -> None:
        self._rank, self._size = rank, size
        self._ended = ended
        self._interval, self._silence = interval, silence
        # Another thread that waits for the store's answer would keep this one waiting.
        self._mine, self._others = store.clone(), store.clone()
        for each in (self._mine, self._others):
            each.set_timeout(timedelta(seconds=silence))
        self._keys = [f"beat/{number}" for number in range(size)]
        self._words: dict[str, Any] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._known: End | None = None
        self._beats: list[bytes] = [b""] * size
        self._looked = time.monotonic()
        self._away = 0.0  # seconds in which this process could not hear anybody
        self._heard = [self._looked] * size
        self._count = [0] * size  # signs of life
        self._missed = [0] * size  # looks since the last one
        self._spoken_for: int | None = None  # the rank whose end is that of the job: it may be gone
        self.notices = ""
        self._listening: Notices | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="ranks")

    def start(self) -> None:
        """Begin. Rank 0 must have begun before others do, which wait for it."""
        if self._rank == 0:
            self._listening = Notices(self._agreed)
            self.notices = self._listening.address
            self._mine.multi_set([_END, *self._keys], [""] * (self._size + 1))
            self._mine.multi_set([_NOTICES, _READY], [self.notices, "1"])
        else:
            self._mine.wait([_READY], timedelta(seconds=COMING))
            self.notices = self._mine.multi_get([_NOTICES])[0].decode()
        self._thread.start()

    def say(self, **words: Any) -> None:
        """Let the others know something of this rank, as plain data."""
        with self._guard:
            self._words.update(words)

    def words(self) -> list[dict[str, Any]]:
        """What each rank has last said."""
        return [json.loads(beat) if beat else {} for beat in self._beats]

    def tell(self, end: End) -> End:
        """This rank has come to its end. Returns the end that counts: that of whoever was first."""
        self._stop.set()
        try:
            text = self._others.compare_set(_END, "", end.to_text())
            self._others.set(self._keys[self._rank], json.dumps({**self._words, "left": True}))
            counts = End.from_text(text)
            self._spoken_for = counts.rank
            return counts
        except (RuntimeError, ValueError):  # the store is gone, and with it the rank that had it
            return end

    def cause(self, patience: float, silence: float, *, unless_alive: bool = False) -> End | None:
        """The end of another rank: told, or one that has not been heard of for `silence` seconds. None where all others
        are known to live: as soon as they are (unless_alive), else once `patience` seconds have passed.

        Where others are neither missed nor known to live, because the machine is busy, this takes longer than
        `patience`; with unless_alive, where the process itself may be killed for being late, it does not.
        """
        others = [rank for rank in range(self._size) if rank != self._rank]
        began, before = time.monotonic(), list(self._count)
        while True:
            if self._known:
                return self._known
            waited = time.monotonic() - began
            late = unless_alive and waited >= patience
            for rank in others:
                silent = self._now() - self._heard[rank] > silence or late
                if silent and self._missed[rank] >= _LOOKS and self._beats[rank]:
                    return self._told_of(rank, "ended without a word: it was killed, or its machine is gone")
            # The next sign of life may be from before its end.
            alive = all(self._count[rank] >= before[rank] + 2 for rank in others)
            if late or waited >= _AT_MOST or (alive and (unless_alive or waited >= patience)):
                return None
            time.sleep(0.05)

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._listening:
            self._listening.close()

    def finish(self, patience: float = 10.0) -> None:
        """The job has finished, as rank 0 tells and the others wait to be told. Rank 0 waits until they have heard it,
        for the store may end with it. Nothing that happens from here on is a failure."""
        if self._rank:
            while self._known is None or self._known.state != "finished":
                time.sleep(0.05)
            self.tell(End(self._rank, "finished"))
            return
        self.tell(End(0, "finished"))
        self.wait_until_heard(patience)

    def wait_until_heard(self, patience: float) -> None:
        """Of rank 0, which has told its end: wait until the others have heard the one that counts."""
        waited_for = [key for rank, key in enumerate(self._keys) if rank != self._spoken_for]
        until = time.monotonic() + patience
        while self._rank == 0 and time.monotonic() < until:
            try:
                beats = self._others.multi_get(waited_for)
            except RuntimeError:
                return
            if all(b'"left"' in beat for beat in beats):
                return
            time.sleep(0.05)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            with self._guard:
                text = json.dumps({**self._words, "beat": number})
            began = time.monotonic()
            try:
                self._mine.set(self._keys[self._rank], text)
                end, *beats = self._mine.multi_get([_END, *self._keys])
            except RuntimeError as error:
                if (
                    time.monotonic() - began > 2 * self._silence
                ):  # this process was stopped: the store may be there
                    continue
                if not self._stop.is_set():
                    log.debug("The ranks' store does not answer: %s", error)
                    self._end(self._told_of(0, "does not answer: it was killed, or its machine is gone"))
                return
            self._listen(beats)
            if end:
                self._end(End.from_text(end))
                return
            if lost := self._lost():
                self._end(self._agreed(lost))
                return
            self._stop.wait(self._interval)

    def _now(self) -> float:
        """Seconds of a clock that stands still while this process does."""
        now = time.monotonic()
        return now - self._away - max(now - self._looked - self._silence / _LOOKS, 0.0)

    def _listen(self, beats: list[bytes]) -> None:
        now = self._now()
        looked = time.monotonic()
        self._away = looked - now  # first: whoever asks in between sees no later a time than there is
        self._looked = looked
        for number, beat in enumerate(beats):
            if beat != self._beats[number] or b'"left"' in beat:
                self._beats[number], self._heard[number] = beat, now
                self._count[number] += 1
                self._missed[number] = 0
            else:
                self._missed[number] += 1

    def _lost(self) -> End | None:
        now = self._now()
        for number, heard in enumerate(self._heard):
            if number == self._rank:
                continue
            silence = now - heard
            if self._beats[number] and silence > self._silence:
                return self._told_of(
                    number,
                    f"has not been heard of for {silence:.0f} s: it was stopped, or its machine or network is gone",
                )
            if not self._beats[number] and silence > COMING:
                return self._told_of(number, f"has not come within {COMING:.0f} s")
        return None

    def _told_of(self, rank: int, what: str) -> End:
        return End(rank, "failed", what, "rank", True, 1)

    def _agreed(self, end: End) -> End:
        try:
            return End.from_text(self._others.compare_set(_END, "", end.to_text()))
        except (RuntimeError, ValueError):
            return end

    def _end(self, end: End) -> None:
        self._known = end
        if end.state != "finished":
            self._ended(end)
