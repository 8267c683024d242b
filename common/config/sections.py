"""The configuration of a job: what all tasks share.

An attribute path equals the path in the JSON file: `config.train.lr` is `{"train": {"lr": ...}}`. The
description of a field is its documentation: the tables of the documents and the JSON Schemas are generated from it
(`zh` is Chinese). A task derives its own classes; `with_default` takes the defaults that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from common.config.key_lookup import sections
from common.config.section import Conflict, Section, is_positive, key
from common.config.train_section import TrainConfig
from common.config.values import (
    Flag,
    Folder,
    FolderNames,
    FormatNames,
    Gpus,
    Number,
    OptionalFile,
    OptionalFolderNames,
    Whole,
    one_of,
)


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
            is_positive(values.get(name)) for name in ("valid_size", "test_size")
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
