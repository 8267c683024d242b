"""Workers do what they are given, in order, and neither hang nor outlive anyone."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import WorkerError
from common.processes.pool import WorkerPool
from tests.helpers import worker_tasks as tasks

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=[0, 1, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    with WorkerPool(request.param) as pool:
        yield pool


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and awaits its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_results_come_in_order_for_any_number_of_workers(pool: WorkerPool) -> None:
    assert list(pool.map(tasks.double, range(1000), chunk=7)) == [2 * value for value in range(1000)]
    assert list(pool.map(tasks.double, [])) == []
    tickets = [pool.submit(tasks.double, value) for value in range(50)]
    assert [pool.result(ticket) for ticket in reversed(tickets)] == [
        2 * value for value in reversed(range(50))
    ]


def test_a_pool_goes_on_with_fewer_processes() -> None:
    with WorkerPool(3) as pool:
        before = pool.processes
        pool.shrink(2)
        assert (pool.count, len(pool.processes)) == (2, 2)
        wait_until(lambda: not any(alive(process) for process in before))
        assert list(pool.map(tasks.double, range(20), chunk=7)) == [2 * value for value in range(20)]
        pool.shrink(4)  # more than there are: nothing happens
        assert pool.count == 2


def test_results_come_while_others_are_awaited(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        results = pool.map(tasks.slow, [0.0] * 10 + [1000.0], chunk=1)
        assert [next(results) for _ in range(5)] == [0.0] * 5


def test_messages_may_be_large(pool: WorkerPool) -> None:
    blob = os.urandom(3_000_000)
    assert pool.result(pool.submit(bytes.upper, blob)) == blob.upper()


def test_more_tasks_than_the_queue_holds(pool: WorkerPool) -> None:
    tickets = [pool.submit(len, b"x" * 10_000) for _ in range(500)]
    assert [pool.result(ticket) for ticket in tickets] == [10_000] * 500


def test_an_exception_reaches_the_caller_as_itself(pool: WorkerPool) -> None:
    results = pool.map(tasks.refuse, range(10), chunk=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(tasks.Refusal, match="it is three") as caught:
        next(results)
    assert caught.value.value == 3
    if pool.count:
        assert "def refuse" in str(caught.value.__cause__) or "in refuse" in str(caught.value.__cause__)
    assert pool.result(pool.submit(tasks.double, 4)) == 8


def test_an_exception_that_cannot_travel_is_described() -> None:
    with WorkerPool(1) as pool, pytest.raises(RuntimeError, match="Unpicklable: held by a lock"):
        pool.result(pool.submit(tasks.hold))


def test_a_result_is_given_once(pool: WorkerPool) -> None:
    ticket = pool.submit(tasks.double, 4)
    assert pool.result(ticket) == 8
    with pytest.raises((ValueError, KeyError)):
        pool.result(ticket)


def test_workers_are_light_and_leave_the_cores_to_each_other() -> None:
    with WorkerPool(1) as pool:
        found = pool.result(pool.submit(tasks.surroundings))
        assert found["heavy"] == []
        assert found["main"] is None
        assert found["cv2"] == 1
        assert found["omp"] == "1"
        assert found["path"] == sys.path
        assert {signal.SIGINT, signal.SIGTERM} <= found["masked"]


def test_ctrl_c_does_not_end_a_worker() -> None:
    with WorkerPool(2) as pool:
        for process in pool.processes:
            os.kill(process, signal.SIGINT)
        before = pool.processes
        list(pool.map(tasks.slow, [0.05] * 4, chunk=1))
        for process in pool.processes:
            os.kill(process, signal.SIGINT)
        assert set(pool.map(tasks.process, range(8), chunk=1)) <= set(before)
        assert pool.processes == before


def test_what_is_installed_is_made_once_in_each_process(pool: WorkerPool, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("some text")
    descriptor = os.open(tmp_path / "shared", os.O_RDONLY)
    key = pool.install(tasks.build_counter, str(tmp_path / "made"), 5, descriptors=[descriptor])
    os.close(descriptor)
    looked = list(pool.map(tasks.look, [key] * 30, chunk=1))
    assert all(found == {"value": 5, "texts": ["some text"]} for found, _ in looked)
    made = (tmp_path / "made").read_text().split()
    assert len(made) == len(set(made))
    assert set(made) >= {str(process) for _, process in looked}
    pool.remove(key)
    with pytest.raises(KeyError):
        pool.result(pool.submit(tasks.look, key))


def test_withdrawn_tasks_are_over_when_withdrawing_returns(pool: WorkerPool, tmp_path: Path) -> None:
    path = tmp_path / "done"
    path.write_text("")
    unwanted = [pool.submit(tasks.append, str(path), value, 0.02) for value in range(200)]
    wanted = pool.submit(tasks.double, 21)
    if pool.count:
        wait_until(lambda: path.read_text().count("\n") > 2)
    pool.cancel(unwanted)
    seen = path.read_text()
    time.sleep(0.1)
    assert path.read_text() == seen
    assert seen.count("\n") < 150
    assert pool.result(wanted) == 42
    assert list(pool.map(tasks.double, range(9))) == [2 * value for value in range(9)]


def test_a_task_that_does_not_end_is_no_obstacle_to_withdrawing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("common.processes.pool.PATIENCE", 0.1)
    with WorkerPool(1) as pool:
        stuck = pool.submit(tasks.slow, 1000, str(tmp_path / "begun"))
        wait_until((tmp_path / "begun").exists)
        other = pool.submit(tasks.double, 3)
        pool.cancel([stuck])
        assert pool.result(other) == 6


def test_leaving_a_map_early_leaves_nothing_behind(pool: WorkerPool) -> None:
    before = descriptors()
    for _ in range(3):
        results = pool.map(tasks.double, range(1000), chunk=2)
        assert next(results) == 0
        results.close()
    assert descriptors() == before
    assert list(pool.map(tasks.double, range(5))) == [0, 2, 4, 6, 8]


def test_a_killed_worker_is_replaced_and_its_tasks_are_done(tmp_path: Path) -> None:
    with WorkerPool(2) as pool:
        tickets = [pool.submit(tasks.die_once, str(tmp_path / "died"), value) for value in range(40)]
        assert [pool.result(ticket) for ticket in tickets] == list(range(40))
        assert (tmp_path / "died").exists()
        key = pool.install(tasks.build_counter, str(tmp_path / "made"), 7)
        os.kill(pool.processes[0], signal.SIGKILL)
        assert {found["value"] for found, _ in pool.map(tasks.look, [key] * 10, chunk=1)} == {7}
        # What was installed before a death is there after it.
        assert all(alive(process) for process in pool.processes)


@pytest.mark.parametrize(
    ("task", "argument", "text"),
    [
        (
            tasks.die,
            signal.SIGKILL,
            r"signal 9 \(SIGKILL\).*memory runs out: lower train.num_workers \(2 run\)",
        ),
        (tasks.die, signal.SIGSEGV, r"signal 11 \(SIGSEGV\).*lower train.num_workers"),
        (tasks.leave, 7, r"exit status 7.*lower train.num_workers"),
    ],
)
def test_three_deaths_end_the_pool_with_their_cause(
    task: Callable[[int], None], argument: int, text: str
) -> None:
    pool = WorkerPool(2)
    before = pool.processes
    with pytest.raises(WorkerError, match=text):
        pool.result(pool.submit(task, argument))
    assert not any(alive(process) for process in before)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(tasks.double, 1)
    pool.close()


def test_a_stopped_worker_is_named_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.processes.pool._LOOK", 0.1)
    restarts: list[int] = []
    with WorkerPool(2, restarts.append) as pool:
        assert list(pool.map(tasks.double, range(4))) == [0, 2, 4, 6]
        for number in range(1, 5):  # any number of times: the job is not to blame
            stopped = pool.processes[number % 2]
            os.kill(stopped, signal.SIGSTOP)
            for _ in range(10):
                assert list(pool.map(tasks.slowly_double, range(20), chunk=1)) == list(range(0, 40, 2))
            assert restarts == list(range(1, number + 1))
            assert f"data worker {stopped} was stopped" in caplog.text
            assert not alive(stopped)


def test_a_stuck_worker_is_named_and_replaced_but_not_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.processes.pool._LOOK", 0.1)
    with WorkerPool(2) as pool:
        values = [pool.submit(tasks.wait_once, str(tmp_path / "mark"), value) for value in range(3)]
        assert [pool.result(value) for value in values] == [0, 1, 2]
        assert "is stuck: at one task it has neither computed nor read" in caplog.text
    pool = WorkerPool(1)
    with pytest.raises(WorkerError, match=r"is stuck.* and 3 times in all"):
        pool.result(pool.submit(tasks.slow, 1000))
    monkeypatch.setattr("common.processes.pool.BUSY", 0.2)
    pool = WorkerPool(1)
    with pytest.raises(WorkerError, match="is at one task for more than"):
        pool.result(pool.submit(tasks.hold_the_interpreter, str(tmp_path / "busy")))


def test_a_worker_that_waits_for_work_or_works_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.processes.pool._LOOK", 0.02)
    restarts: list[int] = []
    with WorkerPool(2, restarts.append) as pool:
        pool.result(pool.submit(tasks.busy, 3.0))  # the other one has nothing to do meanwhile
    assert restarts == []


def test_closing_ends_workers_at_once_whatever_they_do(tmp_path: Path) -> None:
    before = descriptors()
    pool = WorkerPool(2)
    processes = pool.processes
    for number in range(4):
        pool.submit(tasks.slow, 1000, str(tmp_path / str(number)))
    pool.install(tasks.build_counter, str(tmp_path / "made"), 1, descriptors=[0])
    wait_until((tmp_path / "1").exists)
    pool.close()
    assert not any(alive(process) for process in processes)
    assert descriptors() == before
    pool.close()


HOLDING = """
import sys
sys.path[:0] = {path!r}
from tests.helpers import worker_tasks as tasks
from common.processes.pool import WorkerPool
pool = WorkerPool(1)
print(*pool.processes, flush=True)
pool.result(pool.submit(tasks.hold_the_interpreter, {mark!r}))
"""


def test_a_worker_that_is_busy_in_native_code_dies_with_its_parent(tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    script = HOLDING.format(path=[str(ROOT)], mark=str(mark))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        wait_until(mark.exists)
        time.sleep(0.1)
        parent.kill()
        parent.wait()
    try:
        wait_until(lambda: not alive(worker), 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


PARENT = """
import os, sys, time
sys.path[:0] = {path!r}
from tests.helpers import worker_tasks as tasks
from common.processes.pool import WorkerPool
pool = WorkerPool(2)
for number in range(2):
    pool.submit(tasks.slow, 1000, {folder!r} + f"/{{number}}")
print(*pool.processes, flush=True)
while not all(os.path.exists({folder!r} + f"/{{number}}") for number in range(2)):
    time.sleep(0.01)
print("busy", flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end", ["time.sleep(1000)", "os._exit(3)", "sys.exit(0)", "os.abort()", "raise MemoryError"]
)
def test_workers_end_when_their_parent_does_in_any_way(tmp_path: Path, end: str) -> None:
    path = [str(ROOT)]
    script = PARENT.format(path=path, folder=str(tmp_path), end=end)
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout
        processes = [int(word) for word in parent.stdout.readline().split()]
        assert len(processes) == 2
        assert parent.stdout.readline() == "busy\n"
        if "sleep" in end:
            parent.kill()
        parent.wait()
    try:
        wait_until(lambda: not any(alive(process) for process in processes))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_a_worker_cannot_be_found_by_what_the_current_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with WorkerPool(1) as pool:
        assert pool.result(pool.submit(math.sqrt, 4.0)) == 2.0
