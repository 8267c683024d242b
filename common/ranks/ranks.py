"""What the parts of a job ask of the ranks; a job that is alone is one rank, and asks nobody.

Objects travel between ranks as pickles over unprotected connections: torch.distributed's way, for closed networks.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from common.errors import JobError, RankError, is_out_of_memory, one_line
from common.ranks.ends import End
from common.ranks.place import Place
from common.ranks.watch import SILENCE, Watch

if TYPE_CHECKING:
    from common.ranks.launch import Started

T = TypeVar("T")

# Seconds for which the reason is waited for why another rank does not answer, and without a sign of life after which
# it is that it has none: native code that crashes may write its memory down first.
_REASON, _NO_REASON = 7.0, 5.0
# The same for one that was asked to end: whoever started the ranks does so where another one has failed.
_ASKED, _GONE = 3.0, 2.0
# Seconds for which rank 0, with which the store may end, waits until others have heard why it ends.
_HEARD = 1.5

_WORDS = ("host", "pid", "images_per_second", "waiting")


class CommunicationError(RankError):
    """Ranks could not reach one another; the reason is another rank's, where it has told one."""


class Ranks:
    """The ranks of a job, and this one's place among them.

    Every method that lets ranks talk must be called by all of them, in the same order. ended: called in a thread of its
    own with the end of another rank that failed or was stopped.
    """

    def __init__(self, place: Place | None = None, silence: float = SILENCE) -> None:
        self.place = place or Place()
        self.ended: Callable[[End], None] = lambda end: None
        # Called by another rank with the reason where rank 0, which writes down how the job ended, is gone.
        self.first_gone: Callable[[JobError], None] = lambda error: None
        # "host port word", at which a supervisor tells rank 0 how this one ended; None: it is alone, or rank 0.
        self.notices: str | None = None
        self._silence = silence
        self._start = False
        self._watch: Watch | None = None
        self._started: Started | None = None
        self._on_machine: Any = None  # the group of this machine's ranks

    @property
    def rank(self) -> int:
        """The number of this one."""
        return self.place.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.place.size

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes, logs and serves."""
        return self.place.rank == 0

    # Coming together

    def start(self, count: int) -> None:
        """Go on as rank 0 of `count` on this machine: start the others, as this process was started."""
        self.place = Place(0, count, 0, count)
        self._start = True

    def join(self, gpus: Sequence[int] = ()) -> None:
        """Meet the other ranks. gpus: of this machine by local rank; none: the CPU. Raises JobError."""
        if self.size == 1 or self._watch:
            return
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what fails is told here
        from common.ranks import group

        with self.talking():
            store, self._started = group.meet(self.place, self._start)
            self._watch = Watch(
                store, self.rank, self.size, ended=lambda end: self.ended(end), silence=self._silence
            )
            self._watch.start()
            if not self.first:
                self.notices = f"{os.environ['MASTER_ADDR']} {self._watch.notices}"
            self._watch.say(host=socket.gethostname(), pid=os.getpid())
            if self._started:
                self._started.wait_for(store)
            group.open_group(store, self.place, gpus)
            self._on_machine = group.group_of_machine([int(n) for n in self.all(self.place.machine)])

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Around communication: raises CommunicationError where it fails."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, JobError) or is_out_of_memory(error) or self.size == 1:
                raise
            text = one_line(" ".join(str(error).split()))[:200]
            raise CommunicationError(f"ranks cannot reach one another: {text}", self.rank) from error

    # Talking

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, for all."""
        if self.size == 1:
            return make()
        from common.ranks import group

        made = make() if self.first else None
        with self.talking():
            return group.broadcast(made)  # type: ignore[return-value]

    def spread(self, make: Callable[[], T]) -> T:
        """What the first rank of a machine makes, for all of that machine."""
        if self.size == 1:
            return make()
        from common.ranks import group

        made = make() if self.place.local_rank == 0 else None
        with self.talking():
            return group.broadcast(made, self._on_machine)  # type: ignore[return-value]

    def in_turn(self, make: Callable[[], T]) -> T:
        """What `make` makes in every rank; the first of a machine is done before its others begin."""
        if self.size == 1 or self.place.local_rank == 0:
            made = make()
            self.spread(bool)
            return made
        self.spread(bool)
        return make()

    def all(self, value: T) -> list[T]:
        """The values of all ranks, in their order, for all."""
        if self.size == 1:
            return [value]
        from common.ranks import group

        with self.talking():
            return group.gather(value)

    def to_first(self, value: T) -> list[T] | None:
        """The values of all ranks for rank 0; None for the others."""
        if self.size == 1:
            return [value]
        from common.ranks import group

        with self.talking():
            return group.gather_to_first(value)

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of the ranks' arrays (float64) for all."""
        if self.size == 1:
            return values
        from common.ranks import group

        with self.talking():
            return group.total(values)

    def agree(self, values: Sequence[float]) -> list[float]:
        """The numbers that rank 0 has, for all."""
        if self.size == 1:
            return list(values)
        from common.ranks import group

        with self.talking():
            return group.agree(values)

    # Ending

    def say(self, **words: Any) -> None:
        """Let rank 0 know something of this one."""
        if self._watch:
            self._watch.say(**words)

    def words(self) -> list[dict[str, Any]]:
        """What each rank has last said: "host", "pid", "images_per_second", "waiting"; null what it has not yet."""
        said = self._watch.words() if self._watch else [{}]
        return [{name: each.get(name) for name in _WORDS} for each in said]

    def tell(self, end: JobError | str, exit_status: int) -> None:
        """This rank has failed (a JobError), or was stopped (text): the others end with it."""
        if self._watch:
            self._watch.tell(End.of(self.rank, end, exit_status))

    def cause(self, error: BaseException | None = None) -> End | None:
        """The end of another rank for which this one ends. error: with which it does; None: it was asked to end."""
        if not self._watch:
            return None
        if error is None:
            return self._watch.cause(_ASKED, _GONE, unless_alive=True)
        return self._watch.cause(_REASON, _NO_REASON) if isinstance(error, CommunicationError) else None

    def finish(self) -> None:
        """The job has finished: rank 0 says so, and the others wait until it does."""
        if self._watch:
            from common.ranks import group

            self._watch.finish()
            group.close_group()

    def leave(self, exit_status: int) -> int:
        """End the process, of which nothing is left to do. Alone it returns the status: it ends as any other does. With
        others it ends here: connections to ranks that are gone would be waited for."""
        if self._watch:
            self._watch.wait_until_heard(_HEARD)
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(exit_status)
        return exit_status


#: What a job is that nobody has started as one of several.
ALONE = Ranks()
