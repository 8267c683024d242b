"""The configurations of the detectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import Self

from common.config.section import Conflict, key, with_default
from common.config.sections import DatasetConfig, JobConfig, ModelConfig, ValidConfig
from common.config.train_section import TrainConfig
from common.config.values import (
    BatchSize,
    ClassNames,
    Flag,
    Folder,
    FolderNames,
    Number,
    OptionalFolderNames,
    OptionalRegion,
    Whole,
    one_of,
    one_of_numbers,
    optional_one_of,
    optional_size,
    size,
)
from detect.box_losses import BOX_LOSSES

#: model.scale of the CenterNet detectors that are published.
PUBLISHED_SCALE = 4

#: The SSD detectors that are published: their sizes of the input by base network.
PUBLISHED_SSD = {"vgg16_atrous": (300, 512), "mobilenet1.0": (512,), "resnet50_v1": (512,)}


class DetectDatasetConfig(DatasetConfig):
    """Images with boxes."""

    data_root: Folder = with_default(DatasetConfig, "data_root", Path("/data/aios/data/detect"))
    train_dir: FolderNames = with_default(DatasetConfig, "train_dir", "detect_train")
    valid_dir: OptionalFolderNames = with_default(DatasetConfig, "valid_dir", "detect_valid")
    test_dir: OptionalFolderNames = with_default(DatasetConfig, "test_dir", "detect_test")
    classes: ClassNames = key(
        None,
        "Names of the classes in the order of the ids in the annotations; objects of classes that are not named here "
        "count as absent. null: the names of a format that has names, else class0, class1, ... from the ids found.",
        "类别名称，顺序与标注文件中的 id 对应；此处未列出的类别视为不存在。"
        "null 表示使用标注格式自带的名称，没有名称时根据 id 生成 class0, class1, ...。",
    )


class DetectModelConfig(ModelConfig):
    """What all detectors have; a detector gives its networks and the default of its input size."""

    use_pretrained: Flag = key(
        True,
        "Start from a detector that was trained on model.transfer_dataset.",
        "使用在 model.transfer_dataset 上训练好的检测模型。",
    )
    transfer_dataset: Annotated[str, one_of("coco", "voc")] = key(
        "coco", "Data set of the pretrained detector.", "预训练检测模型使用的数据集。"
    )
    data_shape: tuple[int, int] | None
    amp: Flag = key(
        False,
        "Mixed precision: float16 on GPUs, bfloat16 on processors that have it.",
        "混合精度：GPU 上为 float16，支持的 CPU 上为 bfloat16。",
    )

    @property
    def input_shape(self) -> tuple[int, int]:
        """Width and height of the network's input."""
        assert self.data_shape is not None
        return self.data_shape


class DetectTrainConfig(TrainConfig):
    """How to train a detector."""

    batch_size: BatchSize = with_default(TrainConfig, "batch_size", 16)


class AnchorTrainConfig(DetectTrainConfig):
    """How to train a detector with anchors."""

    mosaic: Number = key(
        0.5,
        "Share of the training images that are put together from four; 0: none. The last tenth of the epochs, and at "
        "least one, has none.",
        "由四张图像拼成的训练图像所占比例；0 表示不拼图。最后十分之一的轮次（至少一轮）不拼图。",
        ge=0,
        le=1,
    )
    box_loss: Annotated[str, one_of(*BOX_LOSSES)] = key(
        "ciou",
        "Loss of boxes: by their offsets (smooth_l1), or by how little they overlap (IoU, or GIoU, DIoU or CIoU, which "
        "know of distance and shape too).",
        "框的损失：按偏移量（smooth_l1），或按重叠程度（IoU，以及还考虑距离和形状的 GIoU、DIoU、CIoU）。",
    )

    @property
    def plain_epochs(self) -> int:
        """A tenth of them see no mosaics: images are whole, as they are when the network is used."""
        return math.ceil(self.epochs / 10) if self.mosaic else 0


class DetectValidConfig(ValidConfig):
    """How to judge detections."""

    metric: Annotated[str, one_of("voc", "voc07")] = key(
        "voc",
        "Average precision: area under the curve (voc) or its mean at 11 points (voc07).",
        "平均精度：曲线下面积（voc）或 11 点平均（voc07）。",
    )
    iou_thresh: Number = key(
        0.5,
        "Intersection over union from which a detection counts as found.",
        "检测框与标注框匹配的交并比阈值。",
        gt=0,
        le=1,
    )
    score_thresh: Number = key(
        0.3,
        "Objects that score below this are left out of the result files; AP counts them.",
        "得分低于该值的目标不写入结果文件（AP 仍计入）。",
        ge=0,
        le=1,
        changeable=True,
    )


class SuppressionValidConfig(DetectValidConfig):
    """How to detect with non-maximum suppression, and judge."""

    nms_thresh: Number = key(
        0.0,
        "Overlap from which NMS drops the weaker box; 0: no NMS.",
        "重叠（IoU）达到该值时 NMS 去掉得分较低的框；0 表示不使用 NMS。",
        ge=0,
        le=1,
    )
    nms_topk: Whole = key(400, "Candidates that NMS looks at.", "参与 NMS 的候选框数。", ge=1, le=100_000)
    post_nms: Whole = key(100, "Detections kept after NMS.", "NMS 之后保留的检测结果数。", ge=1, le=100_000)


class DetectConfig(JobConfig):
    """What the configurations of all detectors share."""

    dataset: DetectDatasetConfig = Field(default_factory=DetectDatasetConfig)
    model: DetectModelConfig
    train: DetectTrainConfig
    valid: DetectValidConfig = Field(default_factory=DetectValidConfig)

    @property
    def detector_name(self) -> str | None:
        """Name of the published parameters of the whole detector; None if none are asked for."""
        raise NotImplementedError

    @property
    def backbone_name(self) -> str | None:
        """Name of the published parameters of the backbone; None if it begins otherwise."""
        raise NotImplementedError

    def untaught(self) -> Self:
        model = self.model.model_copy(update={"use_pretrained": False})
        train = self.train.model_copy(update={"pretrained_base": False})
        return self.model_copy(update={"model": model, "train": train})

    def pretrained(self, *, loaded: bool = False) -> tuple[str, ...]:
        """The detector's parameters, or those of its backbone."""
        name = self.detector_name or self.backbone_name
        return (name,) if name and not loaded else ()


class YOLOv3ModelConfig(DetectModelConfig):
    """The YOLOv3 network."""

    base_network: Annotated[str, one_of("darknet53", "mobilenet1.0")] = key(
        "darknet53", "Backbone.", "骨干网络。"
    )
    data_shape: Annotated[tuple[int, int], size(64, 4096)] = key(
        (416, 416),
        "Width and height of the network's input; one number for a square.",
        "模型输入的宽和高；单个数表示正方形。",
    )


class YOLOv3TrainConfig(AnchorTrainConfig):
    """How to train YOLOv3."""

    lr: Number = with_default(TrainConfig, "lr", 0.001)
    pretrained_base: Flag = key(
        False,
        "Backbone with ImageNet parameters; counts only when model.use_pretrained is false.",
        "骨干网络使用 ImageNet 预训练参数；仅当 model.use_pretrained 为 false 时生效。",
    )
    no_random_shape: Flag = key(
        False,
        "Every batch has the size model.data_shape, instead of sizes that change during the training.",
        "所有批次都使用 model.data_shape 的尺寸，而不在训练中随机变化。",
    )

    ema_decay: Number = key(
        0.9998,
        "Decay of the moving average of the parameters, which is what is validated and exported; 0: no average. "
        "Short trainings are averaged over their last tenth at most. Where the learning rate steps down by half or "
        "more, training goes on from the average.",
        "参数滑动平均的衰减系数，验证和导出均使用平均后的参数；0 表示不使用。短训练最多对最后十分之一取平均。"
        "学习率一次下降一半或更多时，从平均后的参数继续训练。",
        ge=0,
        lt=1,
    )


class YOLOv3Config(DetectConfig):
    """A YOLOv3 job."""

    model_config = ConfigDict(title="YOLOv3")

    model: YOLOv3ModelConfig = Field(default_factory=YOLOv3ModelConfig)
    train: YOLOv3TrainConfig = Field(default_factory=YOLOv3TrainConfig)

    @property
    def detector_name(self) -> str | None:
        """As GluonCV publishes it."""
        model = self.model
        return f"yolo3_{model.base_network}_{model.transfer_dataset}" if model.use_pretrained else None

    @property
    def backbone_name(self) -> str | None:
        """As GluonCV publishes it."""
        wanted = self.train.pretrained_base and not self.model.use_pretrained
        return self.model.base_network if wanted else None


class CenterNetModelConfig(DetectModelConfig):
    """The CenterNet network."""

    base_network: Annotated[
        str,
        one_of(*(f"resnet{depth}_v1b{layers}" for depth in (18, 50, 101) for layers in ("", "_dcnv2"))),
    ] = key(
        "resnet18_v1b_dcnv2",
        "Backbone; _dcnv2: with deformable convolutions, which are slow on a CPU.",
        "骨干网络；_dcnv2 表示使用可变形卷积（在 CPU 上较慢）。",
    )
    # The network comes down to 1/32 of its input, rounded up, and up again from there.
    data_shape: Annotated[tuple[int, int], size(32, 4096, multiple=32)] = key(
        (512, 512),
        "Width and height of the network's input; one number for a square.",
        "模型输入的宽和高；单个数表示正方形。",
    )
    scale: Annotated[int, one_of_numbers(2, 4, 8, 16)] = key(
        4,
        "Size of the input divided by the size of the feature map; pretrained detectors have 4.",
        "输入尺寸与特征图尺寸之比；预训练检测器为 4。",
    )
    topk: Whole = key(
        100,
        "Detections kept of an image, before NMS.",
        "每张图像保留的检测结果数（NMS 之前）。",
        ge=1,
        le=10_000,
    )
    wh_weight: Number = key(0.1, "Weight of the loss of width and height.", "宽高损失的权重。", ge=0, le=1000)
    center_reg_weight: Number = key(
        1.0, "Weight of the loss of the centre's offset.", "中心点偏移损失的权重。", ge=0, le=1000
    )

    def conflicts(self) -> Iterator[Conflict]:
        """A feature map that no pretrained detector has."""
        if self.use_pretrained and self.scale != PUBLISHED_SCALE:
            yield Conflict(
                ("model.scale", "model.use_pretrained"),
                f"with model.use_pretrained: pretrained detectors have {PUBLISHED_SCALE}; set model.use_pretrained "
                "to false for another",
            )


class CenterNetTrainConfig(DetectTrainConfig):
    """How to train CenterNet."""

    lr: Number = with_default(TrainConfig, "lr", 0.01)
    pretrained_base: Flag = key(
        True,
        "Backbone with ImageNet parameters; counts only when model.use_pretrained is false.",
        "骨干网络使用 ImageNet 预训练参数；仅当 model.use_pretrained 为 false 时生效。",
    )
    transfer_lr_mult: Number = key(
        0.01,
        "Learning rate multiplier of the backbone when trained by transfer.",
        "迁移学习时骨干网络的学习率倍数。",
        ge=0,
        le=1000,
    )


class CenterNetValidConfig(SuppressionValidConfig):
    """How to detect and judge with CenterNet."""

    flip_test: Flag = key(
        True, "Average the network's output with that of the mirrored image.", "与水平翻转图像的输出取平均。"
    )


class CenterNetConfig(DetectConfig):
    """A CenterNet job."""

    model_config = ConfigDict(title="CenterNet")

    model: CenterNetModelConfig = Field(default_factory=CenterNetModelConfig)
    train: CenterNetTrainConfig = Field(default_factory=CenterNetTrainConfig)
    valid: CenterNetValidConfig = Field(default_factory=CenterNetValidConfig)

    @property
    def detector_name(self) -> str | None:
        """As GluonCV publishes it."""
        model = self.model
        return f"center_net_{model.base_network}_{model.transfer_dataset}" if model.use_pretrained else None

    @property
    def backbone_name(self) -> str | None:
        """As GluonCV publishes it; with deformable convolutions it begins as the network without them."""
        wanted = self.train.pretrained_base and not self.model.use_pretrained
        return self.model.base_network.removesuffix("_dcnv2") if wanted else None


class SSDModelConfig(DetectModelConfig):
    """The SSD network."""

    base_network: Annotated[
        str,
        one_of(
            "mobilenetv2_1.0_lite",
            "mobilenet1.0",
            "mobilenet1.0_fpn",
            "resnet18_v1",
            "resnet50_v1",
            "vgg16_atrous",
        ),
    ] = key(
        "mobilenetv2_1.0_lite",
        "Backbone; _lite: SSDLite, the lightest; _fpn: with a feature pyramid and one head for all its levels.",
        "骨干网络；_lite 表示最轻的 SSDLite；_fpn 表示带特征金字塔，各层共用一个预测头。",
    )
    use_pretrained: Flag = with_default(DetectModelConfig, "use_pretrained", False)
    data_shape: Annotated[tuple[int, int] | None, optional_size(64, 4096)] = key(
        None,
        "Width and height of the network's input; one number for a square. null: [300, 300], for _fpn [640, 640].",
        "模型输入的宽和高；单个数表示正方形。null 表示 [300, 300]，_fpn 为 [640, 640]。",
    )
    anchor_fit: Flag = key(
        False,
        "Anchors of the sizes that the training set's objects have, instead of those of the papers.",
        "锚框尺寸由训练集目标聚类得到，而不使用论文中的尺寸。",
    )

    @property
    def input_shape(self) -> tuple[int, int]:
        """Width and height of the network's input."""
        if self.data_shape is not None:
            return self.data_shape
        return (640, 640) if self.base_network.endswith("_fpn") else (300, 300)

    @property
    def published_size(self) -> int:
        """The size of the input of the published detector that is nearest."""
        width, height = self.input_shape
        sizes = PUBLISHED_SSD.get(self.base_network, (300,))
        return min(sizes, key=lambda size: abs(math.log(math.sqrt(width * height) / size)))

    def conflicts(self) -> Iterator[Conflict]:
        """A detector that is not published, and anchors that it was not trained with."""
        if self.use_pretrained and self.base_network not in PUBLISHED_SSD:
            yield Conflict(
                ("model.use_pretrained", "model.base_network"),
                f"has no published detector for {self.base_network}; there are some for "
                f"{', '.join(PUBLISHED_SSD)}. train.pretrained_base starts the backbone from ImageNet",
            )
        if self.use_pretrained and self.anchor_fit:
            yield Conflict(
                ("model.anchor_fit", "model.use_pretrained"),
                "with model.use_pretrained: a published detector knows its own anchors alone; set one of them to false",
            )
        if self.syncbn and self.base_network == "vgg16_atrous":
            yield Conflict(("model.syncbn", "model.base_network"), "cannot be: vgg16_atrous has no BatchNorm")


class SSDTrainConfig(AnchorTrainConfig):
    """How to train SSD."""

    lr: Number = with_default(TrainConfig, "lr", 0.01)
    pretrained_base: Flag = key(
        True,
        "Backbone with ImageNet parameters; counts only when model.use_pretrained is false.",
        "骨干网络使用 ImageNet 预训练参数；仅当 model.use_pretrained 为 false 时生效。",
    )
    freeze_early: Flag = key(
        True,
        "The first layers of a backbone from ImageNet, down to maps of an eighth of the input, keep their parameters "
        "and BatchNorm statistics, with --load too, which takes a quarter to a half off a step. false: for large sets "
        "unlike photos.",
        "来自 ImageNet 的骨干网络，其最前面的层（到特征图为输入的八分之一为止）"
        "保持参数和 BatchNorm 统计量不变（使用 --load 时也一样），每步用时减少四分之一到一半。"
        "false：适合图像不像普通照片的大型数据集。",
    )
    box_loss: Annotated[str, one_of(*BOX_LOSSES)] = with_default(AnchorTrainConfig, "box_loss", "smooth_l1")
    class_loss: Annotated[str | None, optional_one_of("hard_negatives", "focal")] = key(
        None,
        "Loss of classes: of the background only what is taken for an object most (hard_negatives), or all of it by "
        "how little it is known yet (focal). null: focal for _fpn, else hard_negatives.",
        "类别损失：背景中只取最容易误判为目标的部分（hard_negatives），或取全部背景并按掌握程度加权（focal）。"
        "null 表示 _fpn 使用 focal，其余使用 hard_negatives。",
    )
    negative_ratio: Number = key(
        3.0,
        "Anchors on background that count for every one on an object (hard_negatives).",
        "每个正样本锚框对应的负样本锚框数（hard_negatives）。",
        gt=0,
        le=1000,
    )
    negative_min_size: Number = key(
        0.0,
        "Background is learnt only from anchors at least so large: the square root of their area, as a share of the "
        "input's.",
        "只从不小于该尺寸的锚框中选取负样本：面积的平方根，占输入的比例。",
        ge=0,
        le=1,
    )
    negative_region: OptionalRegion = key(
        None,
        "Background is learnt only from anchors whose centre lies within x1, y1, x2, y2, as shares of the image as it "
        "is seen in training; null: everywhere.",
        "只从中心位于该区域内的锚框中选取负样本：x1, y1, x2, y2，占训练所见图像的比例；null 表示不限。",
    )

    def class_loss_of(self, base_network: str) -> str:
        """The loss of classes for a network."""
        return self.class_loss or ("focal" if base_network.endswith("_fpn") else "hard_negatives")


class SSDValidConfig(SuppressionValidConfig):
    """How to detect and judge with SSD."""

    nms_thresh: Number = with_default(SuppressionValidConfig, "nms_thresh", 0.45)


class SSDConfig(DetectConfig):
    """An SSD job."""

    model_config = ConfigDict(title="SSD")

    model: SSDModelConfig = Field(default_factory=SSDModelConfig)
    train: SSDTrainConfig = Field(default_factory=SSDTrainConfig)
    valid: SSDValidConfig = Field(default_factory=SSDValidConfig)

    @property
    def detector_name(self) -> str | None:
        """As GluonCV publishes it."""
        model = self.model
        if not model.use_pretrained:
            return None
        return f"ssd_{model.published_size}_{model.base_network}_{model.transfer_dataset}"

    @property
    def backbone_name(self) -> str | None:
        """As GluonCV publishes it."""
        if not self.train.pretrained_base or self.model.use_pretrained:
            return None
        return self.model.base_network.removesuffix("_lite").removesuffix("_fpn")
