"""The configuration of jobs that put a head of their own on a base network of `common.config.network_names`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Self

from common.config.network_names import BASE_NETWORKS, SMALLEST_SIZE, parameters_name, variant_problems
from common.config.section import Conflict, key, with_default
from common.config.sections import DatasetConfig, JobConfig, ModelConfig, ValidConfig
from common.config.train_section import TrainConfig
from common.config.values import (
    BatchSize,
    ClassNames,
    Flag,
    Folder,
    FolderNames,
    Kind,
    Number,
    OptionalFolderNames,
    Whole,
    is_null,
    one_of,
    path,
    refuse,
    text,
)

#: Optimizers of MXNet ("groupadagrad", for sparse gradients alone, and "test" are left out), and AdamW.
OPTIMIZERS = (
    *("adadelta", "adagrad", "adam", "adamax", "adamw", "ccsgd", "dcasgd", "ftml", "ftrl", "lamb", "lars"),
    *("lbsgd", "nadam", "nag", "rmsprop", "sgd", "sgld", "signum"),
)

#: Those whose steps depend on more than weights and gradients: Nadam counts the updates of all devices as its own, and
#: SGLD draws noise on each.
ONE_DEVICE = ("nadam", "sgld")


def _teacher(value: Any) -> str | None:
    if is_null(value):
        return None
    given = text(value)
    if given.casefold() in BASE_NETWORKS:
        return given.casefold()
    if not given.endswith(".pkl"):
        raise refuse()
    return str(path(given))


Teacher = Annotated[
    str | None,
    Kind(
        _teacher,
        "null, the name of a base network (see model.base_network) or the path of a checkpoint (*.pkl)",
        "null、骨干网络名称（见 model.base_network）或检查点文件（*.pkl）的路径",
        schema={"type": ["string", "null"]},
    ),
]


class NetworkDatasetConfig(DatasetConfig):
    """Where the images are."""

    data_root: Folder = with_default(DatasetConfig, "data_root", Path("/data/aios/data/cls"))
    train_dir: FolderNames = with_default(DatasetConfig, "train_dir", "classification_train")
    valid_dir: OptionalFolderNames = with_default(DatasetConfig, "valid_dir", "classification_valid")
    test_dir: OptionalFolderNames = with_default(DatasetConfig, "test_dir", "classification_test")


class ClassDatasetConfig(NetworkDatasetConfig):
    """Images with classes or identities."""

    classes: ClassNames = key(
        None,
        "Names of the classes in their order; what is of another class counts as absent. null: all there are in the "
        "training set, sorted.",
        "类别名称及其顺序；其他类别视为不存在。null 表示训练集中的全部类别，按名称排序。",
    )


class NetworkModelConfig(ModelConfig):
    """The base network and its variants."""

    base_network: Annotated[str, one_of(*BASE_NETWORKS)] = key("resnet50_v1", "Base network.", "骨干网络。")
    use_pretrained: Flag = key(True, "Start from ImageNet parameters.", "使用 ImageNet 预训练参数。")
    use_gn: Flag = key(
        False,
        "GroupNorm instead of BatchNorm (an error for a network without it).",
        "用 GroupNorm 代替 BatchNorm（骨干网络没有此变体时报错）。",
    )
    batch_norm: Flag = key(
        False,
        "BatchNorm in a vgg network (an error for the others).",
        "在 vgg 网络中使用 BatchNorm（其他网络报错）。",
    )
    use_se: Flag = key(
        False,
        "Squeeze-and-excite in a resnet (an error for a network without it).",
        "在 resnet 中使用 Squeeze-and-Excite（骨干网络没有此变体时报错）。",
    )
    last_gamma: Flag = key(
        False,
        "The last gamma of every residual block starts at zero (an error for a network without it).",
        "每个残差块最后的 gamma 初始化为零（骨干网络没有此变体时报错）。",
    )

    @property
    def parameters_name(self) -> str:
        """The name under which ImageNet parameters of the network are published."""
        return parameters_name(self.base_network, batch_norm=self.batch_norm)

    def conflicts(self) -> Iterator[Conflict]:
        """Variants that the network does not have."""
        problems = variant_problems(
            self.base_network,
            use_gn=self.use_gn,
            batch_norm=self.batch_norm,
            use_se=self.use_se,
            last_gamma=self.last_gamma,
        )
        for option, problem in problems.items():
            yield Conflict((f"model.{option}", "model.base_network"), f"cannot be: {problem}")


class NetworkTrainConfig(TrainConfig):
    """How to train a base network."""

    batch_size: BatchSize = with_default(TrainConfig, "batch_size", 64)
    lr: Number = with_default(TrainConfig, "lr", 0.035)
    input_width: Whole = key(
        224, "Width of the network's input.", "模型输入宽度。", ge=SMALLEST_SIZE, le=4096
    )
    input_height: Whole = key(
        224, "Height of the network's input.", "模型输入高度。", ge=SMALLEST_SIZE, le=4096
    )
    optimizer: Annotated[str, one_of(*OPTIMIZERS)] = key("adam", "Optimizer.", "优化器。")
    dtype: Annotated[str, one_of("float32", "float16", "bfloat16")] = key(
        "float32",
        "Precision: float16 on GPUs alone; bfloat16 is mixed precision on the CPU.",
        "精度：float16 仅用于 GPU；bfloat16 为 CPU 上的混合精度。",
    )
    mode: Annotated[str, one_of("hybrid", "imperative")] = key(
        "hybrid",
        "Training compiled (hybrid) or operator by operator (imperative: slower, float32).",
        "训练编译执行（hybrid）或逐算子执行（imperative：较慢，仅 float32）。",
    )
    teacher: Teacher = key(
        None,
        "Distillation from this network or checkpoint; null: none.",
        "蒸馏使用的教师网络或检查点；null 表示不蒸馏。",
    )
    hard_weight: Number = key(
        0.5,
        "Weight of the annotations against the teacher's answers.",
        "标注相对于教师网络输出的权重。",
        ge=0,
        le=1,
    )
    temperature: Number = key(20.0, "Softening of the teacher's answers.", "蒸馏温度。", gt=0, le=1000)
    mixup: Flag = key(False, "Train on mixtures of two images.", "使用 mixup（混合两张图像）。")
    mixup_alpha: Number = key(
        0.2,
        "Mixture ratios are drawn from Beta(alpha, alpha).",
        "混合比例服从 Beta(alpha, alpha)。",
        gt=0,
        le=100,
    )
    mixup_off_epoch: Whole = key(
        0, "No mixup in the last so many epochs.", "最后多少轮不使用 mixup。", ge=0, le=1_000_000
    )
    label_smoothing: Flag = key(False, "Soften the classes of the annotations by 0.1.", "标签平滑（0.1）。")
    no_wd: Flag = key(
        False, "No weight decay on biases, gamma and beta.", "偏置、gamma 和 beta 不做权重衰减。"
    )
    resume_epoch: Whole = key(
        0,
        "The first epoch's number of a run with --load, where it is above train.start_epoch.",
        "使用 --load 迭代训练时的起始轮次编号（大于 train.start_epoch 时生效）。",
        ge=0,
        le=1_000_000,
    )
    transfer_lr_mult: Number = key(
        0.01,
        "Learning rate multiplier of the pretrained layers.",
        "预训练层的学习率倍数。",
        ge=0,
        le=1000,
    )

    def first_epoch(self, loaded: bool) -> int:
        """Number of the first epoch of a run that starts afresh or, if `loaded`, from a given checkpoint."""
        return max(self.start_epoch, self.resume_epoch) if loaded else self.start_epoch

    @property
    def plain_epochs(self) -> int:
        """Epochs at the end without mixup."""
        return self.mixup_off_epoch

    def mixup_in(self, plain: bool) -> float:
        """mixup_alpha in an epoch that mixes, 0 in a plain one."""
        return self.mixup_alpha if self.mixup and not plain else 0.0

    def conflicts(self) -> Iterator[Conflict]:
        """Those of every training, and no epoch to resume at."""
        yield from super().conflicts()
        if self.resume_epoch >= self.epochs:
            yield Conflict(
                ("train.resume_epoch", "train.epochs"),
                f"leaves no epoch to train: it must be below train.epochs ({self.epochs})",
            )


class NetworkConfig(JobConfig):
    """What the configurations of all such jobs share."""

    dataset: NetworkDatasetConfig = Field(default_factory=NetworkDatasetConfig)
    model: NetworkModelConfig = Field(default_factory=NetworkModelConfig)
    train: NetworkTrainConfig = Field(default_factory=NetworkTrainConfig)
    valid: ValidConfig = Field(default_factory=ValidConfig)

    def untaught(self) -> Self:
        model = self.model.model_copy(update={"use_pretrained": False})
        return self.model_copy(
            update={"model": model, "train": self.train.model_copy(update={"teacher": None})}
        )

    def pretrained(self, *, loaded: bool = False) -> tuple[str, ...]:
        """The base network's ImageNet parameters, and those of a teacher that knows ImageNet."""
        names = []
        if self.model.use_pretrained and not loaded:
            names.append(self.model.parameters_name)
        if self.train.teacher in BASE_NETWORKS:
            names.append(parameters_name(self.train.teacher))
        return tuple(dict.fromkeys(names))

    def possible_parameters(self) -> tuple[str, ...]:
        """The base network's ImageNet parameters."""
        return (self.model.parameters_name,)

    def conflicts(self) -> Iterator[Conflict]:
        """Those of every job, a precision that the devices do not have, and optimizers for one device alone."""
        yield from super().conflicts()
        if self.train.optimizer in ONE_DEVICE and len(self.gpus) > 1:
            yield Conflict(
                ("train.optimizer", "gpus"),
                f"is for one device, and gpus has {len(self.gpus)}: every one would take steps of its own",
            )
        if self.train.dtype == "float16" and not self.gpus:
            yield Conflict(
                ("train.dtype", "gpus"), "needs GPUs, and gpus is []: on the CPU take float32 or bfloat16"
            )
        if self.train.dtype == "bfloat16" and self.gpus:
            yield Conflict(
                ("train.dtype", "gpus"), "is for the CPU (gpus []): on GPUs take float32 or float16"
            )
        if self.train.mode == "imperative" and self.train.dtype != "float32":
            yield Conflict(
                ("train.dtype", "train.mode"), "needs train.mode hybrid: imperative training is in float32"
            )
        if self.synchronised and self.train.mode == "imperative" and self.engine != "torch":
            yield Conflict(
                ("model.syncbn", "train.mode"),
                "needs train.mode hybrid: operator by operator no GPU waits for the others",
            )


class ClassNetworkConfig(NetworkConfig):
    """Of jobs whose images have classes or identities."""

    dataset: ClassDatasetConfig = Field(default_factory=ClassDatasetConfig)
