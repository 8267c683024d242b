"""Everything between a configuration and a network with parameters and data, decided once.

A job and `--check` begin with it. It destroys nothing: what an earlier job left stays until the new one can begin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

from common.config.command_line import Options
from common.config.reading import with_model
from common.config.sections import JobConfig
from common.data.report import Report
from common.datasets import Datasets, load_datasets
from common.engine.devices import (
    check_visible,
    choose_engine,
    contexts,
    gpus_by_local_rank,
    load_mxnet,
    own_gpus,
    visible_gpus,
)
from common.engine.memory import Gauge
from common.engine.opening import check_graphs
from common.errors import ConfigurationError, one_line
from common.processes.pool import WorkerPool
from common.ranks.ranks import ALONE, Ranks
from common.ranks.shares import least_batch
from common.recipe import Recipe
from common.reporting import supervisor
from common.reporting.warnings import warn
from common.same_sets import same_everywhere
from common.steps import Steps
from common.task import Model, Task
from common.trial import batch_that_fits

log = logging.getLogger("visualtl")

Attempt = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Prepared:
    """What a job begins with.

    task: by a configuration whose model section is that of the checkpoint, where there is one. engine: who computes,
    "mxnet" or "torch". devices: MXNet's contexts, on which the network is made, and recipe: of the training; None where
    they cannot be had. checkpoint: what parameters come from,
    if any; saved: the state of the training that is resumed, if one is. loaded: the training began with a checkpoint
    given with --load. data: None where it cannot be read.
    """

    task: Task[Any]
    engine: str
    devices: Sequence[Any] | None
    recipe: Recipe | None
    checkpoint: dict[str, Any] | None
    saved: dict[str, Any] | None
    loaded: bool
    data: Datasets | None

    def build(self, devices: Sequence[Any]) -> Model:
        """The model on `devices`, with the parameters that training begins with. Raises JobError."""
        assert self.data is not None
        _seed(self.task.config.train.seed)
        model = self.task.build(self.data.classes, devices, self.checkpoint)
        if self.checkpoint is None:
            self.task.begin(model, self.data.train)
        if self.task.config.train.freeze_backbone:
            self._freeze(model)
        return model

    def fitted(self, pool: WorkerPool) -> Prepared:
        """The same with train.batch_size "auto" settled; of a job that is resumed, with all that it had found out."""
        config = self.task.config
        if self.saved:
            before = self.saved["configuration"]["train"]
            return self.settled(
                {name: before[name] for name in config.train.left_open if before.get(name) is not None}
            )
        if not config.train.auto_batch:
            return self
        assert self.data is not None
        assert self.devices is not None
        gauge = Gauge(config.gpus, engine=self.engine)
        batch = batch_that_fits(self.task, self.data, self.devices, pool, gauge, self.checkpoint, self.engine)
        return self.settled({"batch_size": batch})

    def settled(self, found: Mapping[str, Any]) -> Prepared:
        """The same with values of keys of `train` that the configuration leaves open."""
        if not found:
            return self
        config = self.task.config
        train = config.train.model_copy(update=dict(found))
        task = type(self.task)(config.model_copy(update={"train": train}))
        return replace(self, task=task, recipe=task.recipe(on_gpu=bool(config.gpus)))

    def _freeze(self, model: Model) -> None:
        from common.networks.base_networks import freeze

        for layers in model.backbone:
            freeze(layers)
        if self.checkpoint is None and not self.task.config.pretrained():
            warn(
                "train.freeze_backbone keeps a backbone of random parameters: nothing has taught it anything yet"
            )


def prepare(
    config: JobConfig,
    options: Options,
    task_name: str,
    *,
    pool: WorkerPool,
    steps: Steps,
    report: Report,
    keep: bool,
    attempt: Attempt = nullcontext,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Devices, checkpoint, network and precision, and the sets.

    task_name: "module:class". steps, report, keep: see `load_datasets`. attempt: a context for each part, which may
    take an error of it for later; what that part decides is then missing. Raises JobError else. ranks: come together
    here (ALONE: there are no others and none are started); the first one reads checkpoints for all, the first of a
    machine the sets for its others.
    """
    engine = "mxnet"
    with attempt():
        engine = choose_engine(config.engine, config.gpus, visible_gpus(), ranks=ranks.size)
        if ranks is not ALONE:
            _bring_together(config, engine, ranks, pool)
    load_mxnet(options.threads, synchronised=config.synchronised and engine == "mxnet")
    from common.training import resume

    task = _task(task_name, config)
    saved = checkpoint = devices = recipe = data = None
    with attempt():
        saved = ranks.from_first(lambda: resume.read_state(config, task.name)) if options.resume else None
        # A training that is resumed has long begun with what --load names.
        load = options.load if saved is None else None
        checkpoint = ranks.from_first(lambda: resume.read_given(load, task.name)) if load else saved
        if checkpoint:
            task = _task(task_name, with_model(config, checkpoint["model"]))
            log.info("The model is that of the checkpoint: %s", one_line(str(checkpoint["model"])))
    with attempt():
        if engine == "torch":
            from common.engine.torch.devices import describe, torch_device

            log.info("PyTorch computes: %s", describe(torch_device(own_gpus(config.gpus, ranks.place)[:1])))
        # Where PyTorch computes the network is made on the CPU.
        devices = contexts(config.gpus if engine == "mxnet" else ())
        recipe = task.recipe(on_gpu=bool(config.gpus))
        if engine == "torch":
            # Before the sets are read, which may take long; no operator depends on the classes.
            outline = type(task)(task.config.untaught()).build(("0", "1"), devices, None)
            check_graphs(outline.blocks())
    with attempt():
        trained = resume.trained_images(checkpoint)
        data = ranks.spread(lambda: load_datasets(task, steps, pool, report, keep=keep, trained=trained))
        same_everywhere(data, str(config.dataset.data_root), ranks)
    loaded = saved["loaded"] if saved else options.load is not None
    return Prepared(task, engine, devices, recipe, checkpoint, saved, loaded, data)


def _bring_together(config: JobConfig, engine: str, ranks: Ranks, pool: WorkerPool) -> None:
    """Let the ranks meet: those that torchrun has started, or one a GPU, which share the workers that were this one's.
    Raises JobError."""
    if ranks.size == 1:
        if engine == "mxnet" or len(config.gpus) < 2:
            return
        ranks.start(len(config.gpus))
        supervisor.tell(rank=0)
        pool.shrink(-(-pool.count // ranks.size))
    batch = config.train.batch_size
    if config.train.auto_batch:
        raise ConfigurationError(
            "train.batch_size: 'auto' finds out what one device can take, and several ranks share a batch; give the "
            "number of images of all ranks together"
        )
    if batch < least_batch(ranks.size):
        raise ConfigurationError(
            f"train.batch_size: {batch} is too small for {ranks.size} ranks, which share it in pairs of images: it "
            f"must be at least {least_batch(ranks.size)}, better a multiple of {2 * ranks.size}"
        )
    gpus = gpus_by_local_rank(config.gpus, ranks.place.local_size)
    check_visible(gpus, visible_gpus())
    ranks.join(gpus)
    if ranks.notices:
        supervisor.tell(notices=ranks.notices)
    if batch % (2 * ranks.size):
        warn(
            f"train.batch_size {batch} is no multiple of {2 * ranks.size}: some of the {ranks.size} ranks compute more "
            "images than others, which wait for them"
        )
    log.info(
        "%d ranks on %d machines train together: rank 0 is this one",
        ranks.size,
        len(set(ranks.all(ranks.place.machine))),
    )


def _task(name: str, config: JobConfig) -> Task[Any]:
    task: Task[Any] = resolve_name(name)(config)
    return task


def _seed(seed: int) -> None:
    """Parameters begin the same in every run; everything else that is random has its own generator."""
    import mxnet as mx
    import numpy as np

    mx.random.seed(seed)
    np.random.seed(seed)  # MXNet's initialisers draw from it
