"""Ranks hear of one another's end, and notice who is not heard of any more."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import DataError, KilledError, RankError
from common.ranks.ends import End
from common.ranks.notices import give_notice
from common.ranks.watch import Watch
from common.reporting.afterwards import write_down_for_another
from common.reporting.status import Status
from tests.helpers.jobs import status

INTERVAL, SILENCE = 0.02, 0.4


class Memory:
    """A store as torch.distributed has them, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.guard = threading.Lock()
        self.gone = False
        self.slow = 0.0

    def clone(self) -> Memory:
        return self

    def set_timeout(self, timeout: timedelta) -> None: ...

    def set(self, key: str, value: str) -> None:
        self.multi_set([key], [value])

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        with self.guard:
            self._answer()
            self.values.update(zip(keys, values, strict=True))

    def multi_get(self, keys: list[str]) -> list[bytes]:
        time.sleep(self.slow)
        with self.guard:
            self._answer()
            return [self.values[key].encode() for key in keys]

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        with self.guard:
            self._answer()
            if self.values.get(key, "") == expected:
                self.values[key] = desired
            return self.values[key].encode()

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        assert all(key in self.values for key in keys)

    def _answer(self) -> None:
        if self.gone:
            raise RuntimeError("connection reset by peer")


def watches(
    store: Memory, size: int, ended: Callable[[int, End], None], intervals: Sequence[float] = ()
) -> list[Watch]:
    made = []
    for rank in range(size):

        def heard(end: End, rank: int = rank) -> None:
            ended(rank, end)

        interval = intervals[rank] if intervals else INTERVAL
        made.append(Watch(store, rank, size, ended=heard, interval=interval, silence=SILENCE))
        made[-1].start()
    return made


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


def test_whoever_fails_first_is_the_reason_that_all_hear() -> None:
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 3, heard.__setitem__)
    first = End.of(2, DataError("no images"), 3)
    assert ranks[2].tell(first) == first
    assert ranks[1].tell(End.of(1, "stopped by SIGTERM", 143)) == first
    until(lambda: 0 in heard)
    assert heard[0] == first == ranks[0].cause(1.0, 1.0)
    assert (first.state, first.kind, first.retry, first.exit_status) == ("failed", "data", False, 3)


def test_a_rank_that_is_not_heard_of_is_told_as_gone() -> None:
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 3, heard.__setitem__)
    time.sleep(5 * INTERVAL)
    ranks[1].close()  # as a process that is killed: it says nothing more
    until(lambda: {0, 2} <= heard.keys())
    assert {heard[0].rank, heard[2].rank} == {1}
    assert "has not been heard of" in heard[0].message
    assert RankError(heard[0].message, 1).retry


def test_a_pause_of_all_is_nobodys_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine, or of the containers: whoever goes on first has not heard of the others for long."""
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 3, heard.__setitem__, (INTERVAL, SILENCE / 3, INTERVAL))
    time.sleep(2 * SILENCE)
    clock = time.monotonic
    monkeypatch.setattr("common.ranks.watch.time.monotonic", lambda: clock() + 400.0)
    time.sleep(2 * SILENCE)
    assert heard == {}
    ranks[1].close()  # as a process that is killed
    until(lambda: {0, 2} <= heard.keys())
    assert {heard[0].rank, heard[2].rank} == {1}


def test_a_store_that_does_not_answer_is_the_end_of_rank_0() -> None:
    heard: dict[int, End] = {}
    store = Memory()
    watches(store, 2, heard.__setitem__)
    time.sleep(5 * INTERVAL)
    store.gone = True
    until(lambda: 1 in heard)
    assert heard[1].rank == 0
    assert "does not answer" in heard[1].message


def test_one_that_is_asked_to_end_waits_only_until_it_knows_that_all_others_live() -> None:
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 2, heard.__setitem__)
    time.sleep(5 * INTERVAL)
    began = time.monotonic()
    assert ranks[0].cause(5.0, 2.0, unless_alive=True) is None
    assert time.monotonic() - began < 2.0
    ranks[1].close()  # as a process that is killed
    assert (lost := ranks[0].cause(5.0, 0.2, unless_alive=True)) is not None
    assert lost.rank == 1
    for each in ranks:
        each.close()


def test_where_the_machine_is_busy_a_rank_that_was_killed_is_named_all_the_same() -> None:
    """It answers so late that the time in which a reason is looked for is over before anybody is missed."""
    store = Memory()
    ranks = watches(store, 2, lambda rank, end: None)
    time.sleep(5 * INTERVAL)
    store.slow = 0.05
    ranks[1].close()  # as a process that is killed
    assert (lost := ranks[0].cause(0.1, 0.2)) is not None
    assert lost.rank == 1
    ranks[0].close()


def test_nobody_is_named_where_all_live() -> None:
    ranks = watches(Memory(), 2, lambda rank, end: None)
    time.sleep(5 * INTERVAL)
    began = time.monotonic()
    assert ranks[0].cause(0.2, 0.3) is None
    assert time.monotonic() - began >= 0.2
    for each in ranks:
        each.close()


def test_a_supervisor_tells_rank_0_why_its_rank_has_ended() -> None:
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 3, heard.__setitem__)
    end = End.of(1, KilledError("the job was ended by signal 9"), 137)
    port, word = ranks[2].notices.split()
    assert not give_notice(f"127.0.0.1 {port} another", end)
    with socket.create_connection(("127.0.0.1", int(port))) as nobody:
        nobody.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert nobody.recv(1) == b""
    assert not heard
    assert give_notice(f"127.0.0.1 {port} {word}", end)
    until(lambda: {0, 2} <= heard.keys())
    assert heard[0] == heard[2] == end
    for each in ranks:
        each.close()
    assert not give_notice(f"127.0.0.1 {port} {word}", end)


def test_one_that_is_asked_to_end_because_another_was_says_so() -> None:
    """torchrun asks all to end when one has."""
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 2, heard.__setitem__)
    stopped = End.of(1, "stopped by SIGTERM", 143)
    ranks[1].tell(stopped)
    until(lambda: 0 in heard)
    time.sleep(0.3)
    assert ranks[0].cause(1.0, 0.2, unless_alive=True) == stopped


def test_rank_0_stays_until_the_others_have_heard_why_it_ends() -> None:
    """Its store ends with it, and what they would hear then is that it is gone."""
    made: list[Watch] = []

    def heard(rank: int, end: End) -> None:
        if rank == 1:
            time.sleep(0.2)
            made[1].tell(end)

    made += watches(Memory(), 3, heard)
    time.sleep(5 * INTERVAL)
    made[2].close()  # as a process that is killed, whose end it is
    end = made[0].tell(End(2, "failed", "killed", "rank"))
    began = time.monotonic()
    made[0].wait_until_heard(5.0)
    assert 0.2 <= time.monotonic() - began < 2.0
    assert made[1].tell(End(1, "stopped")) == end
    made[0].close()


def test_a_job_that_has_finished_is_nobodys_failure() -> None:
    heard: dict[int, End] = {}
    ranks = watches(Memory(), 2, heard.__setitem__)
    other = threading.Thread(target=ranks[1].finish)
    other.start()
    ranks[0].finish()
    other.join(5)
    assert not other.is_alive()
    assert not heard


def test_another_rank_writes_down_that_rank_0_is_gone_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.reporting.afterwards._ITS_OWN_WORDS", 0.0)
    error = RankError("does not answer", 0)
    write_down_for_another(tmp_path / "elsewhere", error)
    assert not (tmp_path / "elsewhere").exists()  # on this machine there is no such log_dir
    job = Status(tmp_path)
    job.update(state="training", epoch=7)
    write_down_for_another(tmp_path, error)
    written = status(tmp_path)
    assert (written["state"], written["epoch"]) == ("failed", 7)
    assert written["error"] == {
        "kind": "rank",
        "message": "rank 0: does not answer",
        "retry": True,
        "rank": 0,
    }
    write_down_for_another(tmp_path, RankError("something else", 0))
    assert status(tmp_path)["error"]["message"] == "rank 0: does not answer"
