"""The configuration of a job: what all tasks share.

An attribute path equals the path in the JSON file: `config.train.lr` is `{"train": {"lr": ...}}`. The
description of a field is its documentation: the tables of the documents and the JSON Schemas are generated from it
(`zh` is Chinese). A task derives its own classes; `with_default` takes the defaults that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from common.config.key_lookup import limits_of, sections
from common.config.values import (
    BatchSize,
    Epochs,
    Flag,
    Folder,
    FolderNames,
    FormatNames,
    Gpus,
    Number,
    OptionalFile,
    OptionalFolderNames,
    Whole,
    number,
    one_of,
)


def key(default: Any, english: str, chinese: str, *, changeable: bool = False, **limits: Any) -> Any:
    """A key of a section: its default (`...`: required), what it means in both languages, its range (ge, gt, le, lt).

    changeable: it says how a training is carried out and watched, or how long it lasts, and not what it is, so that it
    may have another value when a job is resumed.
    """
    extra: dict[str, Any] = {"zh": chinese, **({"changeable": True} if changeable else {})}
    return Field(default, description=english, json_schema_extra=extra, **limits)


def with_default(section: type[Section], name: str, default: Any) -> Any:
    """The key `name` of a section with a task's default."""
    field = section.model_fields[name]
    return Field(
        default, description=field.description, json_schema_extra=field.json_schema_extra, **limits_of(field)
    )


@dataclass(frozen=True)
class Conflict:
    """Values that are all allowed, but not together: `reason` follows the value of the first of `keys`."""

    keys: tuple[str, ...]
    reason: str


class Section(BaseModel):
    """A part of a configuration: it never changes and knows no other keys than its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def conflicts(self) -> Iterator[Conflict]:
        """Values of this section that do not go together."""
        yield from ()


#: Keys of `train` that say how the learning rate falls.
_SCHEDULE = frozenset({"lr_mode", "lr_decay", "lr_decay_epoch", "lr_decay_period"})


def _is_positive(size: Any) -> bool:
    try:
        return number(size) > 0
    except PydanticCustomError:  # told when its own turn comes
        return False


def annotations_key(english: str, chinese: str) -> Any:
    """The key of a set's annotations."""
    return key(
        None,
        f"File or folder with the annotations of the {english} set, relative to dataset.data_root, for formats that "
        "keep them apart from the images; null: looked for in the usual places.",
        f"{chinese}标注所在的文件或文件夹，相对于 dataset.data_root，用于标注与图像分开存放的格式；"
        "null 表示在常用位置查找。",
    )


class DatasetConfig(Section):
    """Where the data is. A task gives the defaults of the folders."""

    data_root: Folder = key(..., "Root folder of the data.", "训练数据根目录。", changeable=True)
    train_dir: FolderNames = key(
        ...,
        "Folder of the training set, relative to dataset.data_root; a list: several folders as one set.",
        "训练集文件夹，相对于 dataset.data_root；可为列表：多个文件夹合为一个数据集。",
    )
    valid_dir: OptionalFolderNames = key(
        ...,
        'Folder of the validation set, relative to dataset.data_root; null or "": none. The default holds '
        "only where the configuration names no folder and no size above 0, and the folder exists; otherwise "
        "absent means none.",
        '验证集文件夹，相对于 dataset.data_root；null 或 "" 表示没有。仅当配置未指定任何文件夹和'
        "大于 0 的比例、且该文件夹存在时默认值才生效，否则不写即表示没有。",
    )
    test_dir: OptionalFolderNames = key(
        ...,
        "Folder of the test set, relative to dataset.data_root; null, absent and default as for "
        "dataset.valid_dir.",
        "测试集文件夹，相对于 dataset.data_root；null、不写和默认值的含义与 dataset.valid_dir 相同。",
    )
    valid_size: Number = key(
        0.0,
        "Share of the training set that becomes the validation set, the same files every time; counts where "
        "there is no dataset.valid_dir. The sum with dataset.test_size stays below 1.",
        "从训练集中划分为验证集的比例，每次划分相同；仅当没有 dataset.valid_dir 时生效。"
        "与 dataset.test_size 之和必须小于 1。",
        ge=0,
        lt=1,
    )
    test_size: Number = key(
        0.0,
        "Share of the training set that becomes the test set, the same files every time; counts where "
        "there is no dataset.test_dir.",
        "从训练集中划分为测试集的比例，每次划分相同；仅当没有 dataset.test_dir 时生效。",
        ge=0,
        lt=1,
    )

    format: FormatNames = key(
        "auto",
        "Format of the labels, or a list of formats as long as dataset.train_dir. auto: found out from what lies "
        "there, and said in the log with the reason; our own texts stay txt, whatever lies beside them.",
        "标注格式，或与 dataset.train_dir 等长的格式列表。auto：根据文件夹内容自动识别，并在日志中说明理由；"
        "本项目的 txt 标注始终按 txt 读取，无论旁边有什么文件。",
    )
    train_annotations: OptionalFile = annotations_key("training", "训练集")
    valid_annotations: OptionalFile = annotations_key("validation", "验证集")
    test_annotations: OptionalFile = annotations_key("test", "测试集")

    @model_validator(mode="before")
    @classmethod
    def _absent_means_none(cls, values: Any) -> Any:
        """A configuration that says anything about the sets says all: what it leaves out is not there."""
        if not isinstance(values, Mapping):
            return values
        folders = {"train_dir", "valid_dir", "test_dir"}
        if folders & set(values) or any(
            _is_positive(values.get(name)) for name in ("valid_size", "test_size")
        ):
            return {"valid_dir": None, "test_dir": None, **values}
        return values

    def is_default(self, name: str) -> bool:
        """Whether the folder `name` ("valid_dir", ...) is only a default: null if there is no such folder."""
        return name not in self.model_fields_set and getattr(self, name) is not None

    @property
    def chosen_classes(self) -> tuple[str, ...] | None:
        """dataset.classes; None where it names none, or the task has no such key."""
        classes: tuple[str, ...] | None = getattr(self, "classes", None)
        return classes

    def folders(self, name: str) -> tuple[str, ...]:
        """Folders of "train_dir", "valid_dir" or "test_dir"; none: there is no such set."""
        value = getattr(self, name)
        return () if value is None else (value,) if isinstance(value, str) else value

    def formats(self, count: int) -> tuple[str, ...]:
        """The format of each of the `count` folders of a set."""
        return (self.format,) * count if isinstance(self.format, str) else self.format[:count]

    @property
    def valid_share(self) -> float:
        """Share of the training set to split off for validation: 0 where there is a folder of its own."""
        return self.valid_size if self.valid_dir is None else 0.0

    @property
    def test_share(self) -> float:
        """Share of the training set to split off for the test: 0 where there is a folder of its own."""
        return self.test_size if self.test_dir is None else 0.0

    def conflicts(self) -> Iterator[Conflict]:
        """No training set is left; formats that do not belong to the folders."""
        if not isinstance(self.format, str):
            for name in ("train_dir", "valid_dir", "test_dir"):
                count = len(self.folders(name))
                if count > len(self.format) or (name == "train_dir" and count != len(self.format)):
                    yield Conflict(
                        ("dataset.format", f"dataset.{name}"),
                        f"has {len(self.format)} formats for the {count} folders of dataset.{name}",
                    )
        if self.valid_size + self.test_size >= 1:
            yield Conflict(
                ("dataset.valid_size", "dataset.test_size"),
                f"and dataset.test_size {self.test_size:g} leave nothing to train on: "
                "their sum must be below 1",
            )


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
            or not _is_positive(values.get("minutes"))
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


class ValidConfig(Section):
    """How to validate."""

    interval: Whole = key(
        1,
        "Epochs between two validations.",
        "每隔多少轮验证一次。",
        ge=1,
        le=1_000_000,
        changeable=True,
    )
    pictures: Whole = key(
        0,
        "Images of the validation set that TensorBoard's page shows with what is predicted, at every validation.",
        "每次验证时在 TensorBoard 页面上显示多少张带预测结果的验证集图像。",
        ge=0,
        le=1000,
        changeable=True,
    )


class ModelConfig(Section):
    """What is trained; a task gives its networks."""

    base_network: str
    syncbn: Flag = key(
        False,
        "BatchNorm over the images of all GPUs or ranks instead of each one's own; where these are few, it helps.",
        "BatchNorm 在所有 GPU 或 rank 的图像上计算，而不是各自计算；各自的图像很少时有帮助。",
    )


class ExportConfig(Section):
    """What a finished model becomes beside MXNet's files."""

    onnx: Flag = key(
        True,
        "Write the model as ONNX too, for onnxruntime, OpenCV, OpenVINO, TensorRT and others; each file is held "
        "against MXNet on images of the set, and left out, with the reason, where a prediction differs.",
        "同时导出 ONNX 模型，供 onnxruntime、OpenCV、OpenVINO、TensorRT 等使用；每个文件都会在数据集的图像上与 MXNet "
        "逐一比对，只要有预测不一致就不保留该文件，并说明原因。",
        changeable=True,
    )


class JobConfig(Section):
    """The configuration of a job; a task narrows the sections and adds its `model`."""

    log_dir: Folder = key(
        ...,
        "Folder for logs and results; made if it does not exist.",
        "日志和结果保存目录，不存在时自动创建。",
        changeable=True,
    )
    dataset: DatasetConfig
    gpus: Gpus = key(
        (0,),
        "Ids of the GPUs to train on; [] trains on the CPU.",
        "训练使用的 GPU 编号；[] 表示用 CPU 训练。",
        changeable=True,
    )
    engine: Annotated[str, one_of("auto", "mxnet", "torch")] = key(
        "auto",
        "Who computes: mxnet; torch (PyTorch, where installed; on the CPU, or a process a GPU); auto: MXNet where "
        "it holds code for the GPUs, else PyTorch where it is installed. Model, checkpoints and results are the same.",
        "由谁计算：mxnet；torch（PyTorch，需已安装；CPU，或每个 GPU 一个进程）；auto：MXNet 含有该 GPU 的代码时用 "
        "MXNet，否则在装有 PyTorch 时用 PyTorch。模型、检查点和结果相同。",
        changeable=True,
    )
    model: ModelConfig
    train: TrainConfig
    valid: ValidConfig
    export: ExportConfig = Field(default_factory=ExportConfig)

    @property
    def whole_batch_norm(self) -> bool:
        """Whether BatchNorm goes by the images of all devices, or ranks."""
        return self.model.syncbn

    @property
    def synchronised(self) -> bool:
        """Whether devices wait for one another in the middle of the network."""
        return self.whole_batch_norm and len(self.gpus) > 1

    def conflicts(self) -> Iterator[Conflict]:
        """Conflicts of all sections and between them."""
        for section in sections(type(self)):
            yield from getattr(self, section).conflicts()
        if self.train.batch_size < len(self.gpus):
            yield Conflict(
                ("train.batch_size", "gpus"),
                f"is too small for {len(self.gpus)} GPUs: every one of gpus needs an image of the batch",
            )

    def pretrained(self, *, loaded: bool = False) -> tuple[str, ...]:
        """Names of the parameters that such a job needs to begin, as `common.networks.pretrained` knows them.

        loaded: the network comes from a checkpoint, given with --load or --resume.
        """
        return ()

    def possible_parameters(self) -> tuple[str, ...]:
        """Names of parameters that a job with this network could begin with, whatever it does begin with."""
        return ()

    def untaught(self) -> Self:
        """The same with random parameters and no teacher: what it is made of can be looked at without a file."""
        return self

    @model_validator(mode="after")
    def _agree(self) -> JobConfig:
        conflicts = tuple(self.conflicts())
        if conflicts:
            told = "; ".join(f"{conflict.keys[0]} {conflict.reason}" for conflict in conflicts)
            raise PydanticCustomError("conflict", "{told}", {"told": told, "conflicts": conflicts})
        return self
