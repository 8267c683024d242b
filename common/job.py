"""A job from its command line to its exit status: what happens, in which order, and what is said.

    argv → configuration → samples → loader → training → best checkpoint → predictions → exported model

`main` owns what surrounds a job (command line, log_dir, endings), `run` what goes on beside it (progress server, data
workers); what is done is `common.job_work`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from common.config.command_line import Options, parse
from common.config.reading import read_configuration
from common.config.sections import JobConfig
from common.engine.devices import processors
from common.errors import ConfigurationError, JobError, LogDirNameError
from common.processes.pool import WorkerPool
from common.ranks.place import place_of
from common.ranks.ranks import Ranks
from common.reporting import supervisor, warnings
from common.reporting.afterwards import write_down_for_another
from common.reporting.endings import ending, explain, fail_before, finish, watch_signals
from common.reporting.lock import lock
from common.reporting.log import open_log, open_nothing
from common.reporting.log_dir import check_names
from common.reporting.progress import Progress, earlier_points
from common.reporting.server_process import ProgressServer, archive_old_events, check_token
from common.reporting.status import Status
from common.steps import first_step

log = logging.getLogger("visualtl")


def main(
    config_class: type[JobConfig], task: str, description: str, argv: Sequence[str] | None = None
) -> int:
    """Run the job that the command line asks for and return its exit status.

    task: "module:class", imported when the progress server is on its way. Every failure is one line on standard error
    and, where log_dir can be written, in estimator.log and status.json.
    """
    options = parse(config_class, sys.argv[1:] if argv is None else argv, description)
    try:
        ignored = ("model",) if options.load else ()  # the checkpoint says which network
        config = read_configuration(config_class, options.config, options.overrides, ignored)
        check_token(config.log_dir)
        ranks = Ranks(place_of(os.environ))
    except ConfigurationError as error:
        return fail_before(error, None if options.check else error.log_dir, options.log_format)
    if ranks.size > 1:
        supervisor.tell(rank=ranks.rank)
    if not ranks.first:
        return 0 if options.check else _follow(config, options, task, ranks)
    if options.check:
        from common.check import check

        return check(config, options, task)
    try:
        with lock(config.log_dir):
            check_names(config.log_dir)
            supervisor.tell(log_dir=str(config.log_dir.resolve()), log_format=options.log_format)
            open_log(config.log_dir, options.log_format)
            status = Status(config.log_dir)
            with ending(status, config.train.batch_size, ranks):
                watch_signals(status, ranks)
                run(config, options, task, status, ranks)
    except LogDirNameError as error:
        return fail_before(error, config.log_dir, options.log_format)
    except (JobError, OSError) as error:  # log_dir itself cannot be used
        return fail_before(explain(error), None, options.log_format)
    except SystemExit as end:
        return ranks.leave(int(end.code or 0))
    return 0


def _follow(config: JobConfig, options: Options, task_name: str, ranks: Ranks) -> int:
    """The part of a rank other than 0: it computes, and writes, logs and serves nothing. Returns its exit status."""
    open_nothing()
    status = Status(None)
    ranks.first_gone = lambda error: write_down_for_another(config.log_dir, error)
    try:
        with ending(status, config.train.batch_size, ranks):
            watch_signals(status, ranks)
            with ExitStack() as stack:
                pool = stack.enter_context(WorkerPool(_workers(config, options, ranks)))
                progress = Progress(None, lambda points: None)
                stack.callback(progress.close)
                from common.job_work import work

                work(config, options, task_name, pool, progress, status, ranks)
                ranks.finish()
                finish(status)
    except SystemExit as end:
        return ranks.leave(int(end.code or 0))
    return 0


def _workers(config: JobConfig, options: Options, ranks: Ranks) -> int:
    """Data workers of this rank: those of a machine are shared out among its ranks."""
    count = min(config.train.num_workers, options.threads or processors())
    return -(-count // ranks.place.local_size)


def run(config: JobConfig, options: Options, task_name: str, status: Status, ranks: Ranks) -> None:
    """The job. Raises JobError where it cannot go on."""
    warnings.forget()
    with ExitStack() as stack:
        earlier = earlier_points(config.log_dir) if options.resume else []
        if not options.resume:
            archive_old_events(config.log_dir)
        server = stack.enter_context(
            ProgressServer(
                config.log_dir, options.port, options.host, options.allow_hosts, options.stuck_after
            )
        )
        status.listen(server.inform)
        progress = Progress(config.log_dir, server.publish)
        stack.callback(progress.close)
        progress.restore(earlier)
        progress.begin(first_step(config.dataset))  # pollers have an answer before MXNet is up
        pool = WorkerPool(
            _workers(config, options, ranks), lambda count: status.update(worker_restarts=count)
        )
        stack.callback(pool.close)
        log.info("Progress: %s", server.address)

        # Imported here: the progress server and the workers start meanwhile.
        from common.job_work import work

        work(config, options, task_name, pool, progress, status, ranks)
        warnings.repeat()
        log.info("Finished: results are in %s", config.log_dir)
        finish(status)
        ranks.finish()
        _linger(options.linger)


def _linger(seconds: float) -> None:
    """The progress stays up for pollers that come seldom."""
    if seconds > 0:
        log.info("The progress page stays up for %g s", seconds)
        time.sleep(seconds)
