"""How to train: the keys that all tasks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ModelWrapValidatorHandler, PrivateAttr, model_validator
from typing_extensions import Self

from common.config.section import Conflict, Section, is_positive, key
from common.config.values import BatchSize, Epochs, Flag, Number, Whole, one_of

#: Keys of `train` that say how the learning rate falls.
_SCHEDULE = frozenset({"lr_mode", "lr_decay", "lr_decay_epoch", "lr_decay_period"})


class TrainConfig(Section):
    """How to train. A task gives the defaults of batch_size and lr."""

    batch_size: BatchSize = key(
        ...,
        'Images of a batch, over all GPUs together. "auto": as many as the default, or as there is memory for in a '
        "training step, found out at the beginning.",
        '批大小，所有 GPU 合计。"auto"：取默认值，内存不足时取一步训练放得下的数量，在开始时测定。',
        ge=1,
        le=65536,
    )
    epochs: Whole = key(
        100,
        "Epochs of a whole training, numbered from 0 to epochs - 1.",
        "训练轮数，编号从 0 到 epochs - 1。",
        ge=1,
        le=1_000_000,
        changeable=True,
    )
    _auto_batch: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _schedule_of_minutes(cls, values: Any) -> Any:
        """Where time says how long a training lasts, and nothing how its rate falls, the rate falls all the while: the
        defaults are epochs of a training of a hundred, and would leave three quarters of the time to small rates."""
        if (
            not isinstance(values, Mapping)
            or _SCHEDULE & set(values)
            or not is_positive(values.get("minutes"))
        ):
            return values
        return {"lr_mode": "cosine", **values}

    @model_validator(mode="wrap")
    @classmethod
    def _take_auto(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Take "auto" out: what is left of it is that it was asked for, beside the default."""
        if not isinstance(values, Mapping):
            return handler(values)
        size = values.get("batch_size")
        asked = isinstance(size, str) and size.strip().casefold() == "auto"
        made = handler(
            {name: value for name, value in values.items() if name != "batch_size"} if asked else values
        )
        made._auto_batch = asked
        return made

    @property
    def auto_batch(self) -> bool:
        """Whether batch_size is only the most that it may be, and memory decides."""
        return self._auto_batch

    @property
    def left_open(self) -> tuple[str, ...]:
        """Names of the keys whose values the job finds out. A job that is resumed keeps what it had."""
        return ("batch_size",) if self.auto_batch else ()

    minutes: Number = key(
        0.0,
        "Above 0: wall time of the whole job in minutes, from its start to its last file. The training ends in time, "
        "with its whole schedule laid over it: keys that count epochs divide it as they divide train.epochs, and "
        "there are as many passes over the images as there is time for. Validation takes a tenth of it at the most. "
        "0: the training lasts train.epochs.",
        "大于 0 时：整个任务（从启动到写完最后一个文件）的时长，单位为分钟。训练按时结束，整个训练安排按时间展开："
        "以轮次计的各参数按其占 train.epochs 的比例划分这段时间，实际遍历图像的次数由时间决定。"
        "验证最多占十分之一的时间。"
        "0 表示按 train.epochs 训练。",
        ge=0,
        le=1_000_000,
        changeable=True,
    )
    lr: Number = key(..., "Learning rate after the warm-up.", "学习率（预热之后）。", gt=0, le=100)
    lr_mode: Annotated[str, one_of("step", "poly", "cosine")] = key(
        "step",
        "How the learning rate falls: in steps, with (1 - t)² or with half a cosine. With train.minutes and no "
        "other key that says how it falls the default is cosine.",
        "学习率衰减模式：阶梯、(1 - t)² 或半个余弦。使用 train.minutes 且未设置任何衰减相关参数时默认为 cosine。",
    )
    lr_decay: Number = key(
        0.1,
        "Factor of a step of the learning rate (lr_mode step).",
        "学习率衰减系数（lr_mode 为 step 时生效）。",
        gt=0,
        le=1,
    )
    lr_decay_epoch: Epochs = key(
        (25, 50, 75),
        'Epochs at whose beginning the rate steps (lr_mode step): text such as "25,50,75", or a list.',
        '在这些轮次开始时衰减学习率（lr_mode 为 step 时生效）：文本，如 "25,50,75"，或列表。',
    )
    lr_decay_period: Whole = key(
        0,
        "Above 0: a step every so many epochs instead of train.lr_decay_epoch.",
        "大于 0 时：每隔这么多轮衰减一次，取代 train.lr_decay_epoch。",
        ge=0,
        le=1_000_000,
    )
    warmup_lr: Number = key(
        0.0, "Learning rate at the beginning of the warm-up.", "预热起始学习率。", ge=0, le=100
    )
    warmup_epochs: Number = key(
        0.0,
        "Epochs of linear warm-up, at most train.epochs.",
        "线性预热的轮数，不超过 train.epochs。",
        ge=0,
        le=1_000_000,
    )
    num_workers: Whole = key(
        16,
        "Processes that decode and augment images; 0: in the training process itself.",
        "解码与增强图像的进程数；0 表示在训练进程内完成。",
        ge=0,
        le=512,
        changeable=True,
    )
    momentum: Number = key(
        0.9, "Momentum of the optimizers that have one.", "动量（仅对有动量的优化器生效）。", ge=0, lt=1
    )
    wd: Number = key(0.0001, "Weight decay.", "权重衰减。", ge=0, le=10)
    start_epoch: Whole = key(
        0,
        "The first epoch's number: epochs start_epoch to epochs - 1 are trained, each at its learning rate.",
        "起始轮次编号：训练编号为 start_epoch 到 epochs - 1 的各轮，学习率按轮次编号取值。",
        ge=0,
        le=1_000_000,
    )
    log_interval: Whole = key(
        50,
        "Batches between two lines of the log; 0: none between epochs.",
        "日志间隔（批数）；0 表示轮内不输出。",
        ge=0,
        le=10**9,
        changeable=True,
    )
    output_lr_mult: Number = key(
        0.1,
        "Learning rate multiplier of the last layers when trained by transfer.",
        "迁移学习时最后几层的学习率倍数。",
        ge=0,
        le=1000,
    )
    freeze_backbone: Flag = key(
        False,
        "The backbone keeps its parameters and BatchNorm statistics: only what stands behind it is trained, in less "
        "time a step. For small sets that look like photos.",
        "骨干网络的参数和 BatchNorm 统计量保持不变，只训练其后的层，每步用时更短。适合内容接近普通照片的小数据集。",
    )
    early_stop_patience: Whole = key(
        -1,
        "Epochs without improvement after which training stops; negative: never.",
        "验证指标连续多少轮没有提升即提前停止；负数表示不提前停止。",
        ge=-1_000_000,
        le=1_000_000,
        changeable=True,
    )
    early_stop_min_delta: Number = key(
        0.001,
        "Changes of the metric smaller than this are no improvement.",
        "小于该值的指标变化不算提升。",
        ge=0,
        changeable=True,
    )
    early_stop_baseline: Number = key(
        0.0,
        "Training does not stop early before the metric has reached this.",
        "指标达到该值之前不会提前停止。",
        changeable=True,
    )
    early_stop_max_value: Number = key(
        1.0,
        "Training stops at once when the metric reaches this.",
        "指标达到该值时立即停止训练。",
        changeable=True,
    )
    ema_decay: Number = key(
        0.9998,
        "Decay of the moving average of the parameters, which is what is validated and exported; 0: no average. "
        "Short trainings are averaged over their last tenth at most.",
        "参数滑动平均的衰减系数，验证和导出均使用平均后的参数；0 表示不使用。短训练最多对最后十分之一取平均。",
        ge=0,
        lt=1,
    )
    seed: Whole = key(
        0,
        "Seed of everything random: the same seed, the same run.",
        "随机种子：相同种子得到相同的训练。",
        ge=0,
        le=2**31 - 1,
    )

    @property
    def plain_epochs(self) -> int:
        """Epochs at the end that train on images as they are: neither mixed nor put together."""
        return 0

    @property
    def first_plain_epoch(self) -> int:
        """Number of the first of the plain epochs."""
        return self.epochs - self.plain_epochs

    def first_epoch(self, loaded: bool) -> int:
        """Number of the first epoch of a run that starts afresh or, if `loaded`, from a given checkpoint."""
        return self.start_epoch

    def conflicts(self) -> Iterator[Conflict]:
        """No epoch is left, or none after the warm-up has begun."""
        if self.start_epoch >= self.epochs:
            yield Conflict(
                ("train.start_epoch", "train.epochs"),
                f"leaves no epoch to train: it must be below train.epochs ({self.epochs})",
            )
        if self.warmup_epochs > self.epochs:
            yield Conflict(
                ("train.warmup_epochs", "train.epochs"),
                f"is longer than the training: it must be at most train.epochs ({self.epochs})",
            )
