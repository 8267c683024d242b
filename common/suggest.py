"""`python3 -m common.suggest FOLDER --out job.json --minutes 10`: from a folder of labelled images to a configuration.

What is trained, from which labels, on which network, at which size and for how long is decided by what lies in the
folder, what this machine does in a few real steps, and the table `CHOICES`, whose figures stand in
benchmarks/QUALITY.md. Every choice is said with its reason.
"""

from __future__ import annotations

from common.reporting.beginning import guard

if __name__ == "__main__":
    guard()  # what is imported below takes a while

import argparse
import errno
import importlib
import json
import logging
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from common.advice import OF_DATA, SMALL_SHARE, Facts, advise, images_by_class, steps_needed
from common.commands import carry_out, named_path
from common.config.command_line import Options
from common.config.json_text import JsonObject, apply_overrides
from common.config.sections import JobConfig, configuration
from common.data.boxes import objects_of
from common.data.formats import txt
from common.data.formats.base import Place
from common.data.formats.recognise import NOTHING_ELSE, READERS, recognise
from common.data.listing import Listing
from common.data.problems import BadSample
from common.data.report import Report
from common.data.set_names import set_folders
from common.datasets import Datasets
from common.engine.devices import bfloat16_supported, choose_engine, processors, visible_gpus
from common.errors import ConfigurationError, DataError, DeviceError, JobError, one_line
from common.files import replacing, spelled_out
from common.images.decoding import ImageError, printable, probe
from common.language import LANGUAGES, Words, ask_for, asked_in, said, write_anything
from common.networks.pretrained import models_folder, present
from common.prepare import prepare
from common.processes.pool import WorkerPool
from common.reporting.log import NAME as LOGGER
from common.reporting.progress import Step
from common.task import Task
from common.trial import time_a_step

_ROOT = Path(__file__).resolve().parents[1]
# Images below which none are set aside; the share that is where there are more, and about how many at most: they take
# time to predict, and more say hardly more.
_FEWEST_TO_SPLIT, _VALIDATED, _MOST_VALIDATED = 10, 0.2, 1000
# An input is at most so many times as large as the images are: enlarging adds nothing to see.
_ENLARGED = 1.1
# Seconds of a job that are no training, where nothing else is known: to begin, and to validate and export.
_AROUND = 20.0
# Share of the rest that is steps, and no validation.
_STEPPING = 0.9
_TASKS = ("detection", "landmark", "classification", "reid")
# Images of a set that are looked at for its keypoints.
_LOOKED_AT = 200
_IN_WORDS: dict[str, Words] = {
    "detection": ("find objects (detection)", "检测目标"),
    "landmark": ("find keypoints (landmarks)", "关键点定位"),
    "classification": ("tell classes of images apart (classification)", "图像分类"),
    "reid": ("recognise individuals (re-identification)", "重识别"),
}


@dataclass(frozen=True)
class Data:
    """What lies in a folder.

    does: what it is labelled for. root: of the data. folders: of the sets, relative to it. images: files of the
    training set. format, why: of the labels. classes: names beside texts of ours; () where labels name their classes.
    joints: keypoints of an image; 0 of other tasks.
    """

    does: str
    root: str
    folders: Mapping[str, str]
    images: int
    format: str
    why: Words
    classes: tuple[str, ...] = ()
    joints: int = 0


@dataclass(frozen=True)
class Choice:
    """A network that suggestions choose from.

    script: that trains it. config, task: "module:class". keys: by section. sizes: of the input, the largest first.
    steps, passes: a training needs so many steps, and to see every image so often; the largest input at which there is
    time for both is taken. most_objects: of the training set, up to which it is chosen. many_objects: from so many on
    it is better than those before it, where there is time for it at an input of least_size. parameters: of which it
    needs the file here. reason: with the figure that stands behind it.
    """

    does: str
    script: str
    config: str
    task: str
    keys: Mapping[str, Mapping[str, Any]]
    sizes: tuple[int, ...]
    batch: int
    steps: int
    passes: int
    reason: Words
    most_objects: float = math.inf
    many_objects: float = math.inf
    least_size: int = 0
    parameters: str | None = None

    def available(self) -> bool:
        """Whether this version has it, and its parameters are here. Raises PretrainedError if these are damaged."""
        if not (_ROOT / self.script).is_file():
            return False
        return self.parameters is None or present(self.parameters, models_folder()) is not None

    def sized(self, size: int) -> dict[str, dict[str, Any]]:
        """The keys of an input of this size."""
        if self.does == "detection":
            return {"model": {"data_shape": [size, size]}}
        return {"train": {"input_width": size, "input_height": size}}


_PRETRAINED: dict[str, Any] = {"base_network": "mobilenetv2_1.0", "use_pretrained": True}
_FROM_THE_BOX: Words = (
    "mobilenetv2_1.0 begins with ImageNet's parameters, which are here: accuracy 0.865 on photos of waste (trashnet) "
    "after 4 minutes on two cores, and 0.556 from random parameters",
    "mobilenetv2_1.0 从本机已有的 ImageNet 参数开始：在 trashnet 上，两个核心训练 4 分钟的准确率为 0.865，"
    "从随机参数开始为 0.556",
)
_SMALL = {"base_network": "mobilenetv3_small", "use_pretrained": False}
_AT_RANDOM: Words = (
    "mobilenetv3_small learns fastest from random parameters; no pretrained ones are here",
    "本机没有预训练参数，从随机参数开始时 mobilenetv3_small 学得最快",
)


def _network(does: str, folder: str, name: str, pretrained: bool, passes: int, **train: Any) -> Choice:
    """One that tasks on a base network share."""
    return Choice(
        does,
        f"{folder}/fit_{folder}.py",
        f"{folder}.config:{name}Config",
        f"{folder}.task:{name}Task",
        {"model": _PRETRAINED if pretrained else _SMALL, "train": {"lr_mode": "cosine", **train}},
        sizes=(224, 160, 128),
        batch=32,
        steps=steps_needed(does, pretrained),
        passes=passes,
        reason=_FROM_THE_BOX if pretrained else _AT_RANDOM,
        parameters="mobilenetv2_1.0" if pretrained else None,
    )


CHOICES: tuple[Choice, ...] = (
    Choice(
        "detection",
        "detect/fit_ssd.py",
        "detect.config:SSDConfig",
        "detect.ssd.task:SSDTask",
        {"model": {"base_network": "mobilenetv2_1.0_lite"}, "train": {"lr_mode": "cosine"}},
        sizes=(512, 416, 300, 224, 160),
        batch=8,
        steps=steps_needed("detection", pretrained=True),
        passes=12,
        reason=(
            "SSD on mobilenetv2_1.0 begins with ImageNet's parameters, which are here: mAP 0.90 on microcontroller "
            "(104 images) after 14 passes over them, YOLOv3 from random parameters 0.40 after 36",
            "SSD（mobilenetv2_1.0）从本机已有的 ImageNet 参数开始：在 microcontroller（104 张）上遍历 14 次后 mAP "
            "0.90，从随机参数开始的 YOLOv3 遍历 36 次后为 0.40",
        ),
        parameters="mobilenetv2_1.0",
    ),
    Choice(
        "detection",
        "detect/fit_center_net.py",
        "detect.config:CenterNetConfig",
        "detect.center_net.task:CenterNetTask",
        {
            "model": {"base_network": "resnet18_v1b", "use_pretrained": False},
            "train": {"pretrained_base": False, "lr_mode": "cosine"},
            "valid": {"flip_test": False},
        },
        sizes=(512, 416, 320, 256, 192),
        batch=8,
        steps=450,
        passes=20,
        reason=(
            "CenterNet on resnet18_v1b learns a few hundred objects best: mAP 0.50 on microcontroller (104 images) "
            "after 6 minutes on two cores, YOLOv3 0.43",
            "目标只有几百个时 CenterNet（resnet18_v1b）学得最好：microcontroller（104 张）在两个核心上训练 6 分钟"
            " mAP 0.50，YOLOv3 为 0.43",
        ),
        most_objects=1000,
    ),
    Choice(
        "detection",
        "detect/fit_yolov3.py",
        "detect.config:YOLOv3Config",
        "detect.yolov3.task:YOLOv3Task",
        {
            "model": {"base_network": "mobilenet1.0", "use_pretrained": False},
            "train": {"lr_mode": "cosine"},
        },
        sizes=(416, 320, 256, 192, 160),
        batch=8,
        steps=steps_needed("detection", pretrained=False),
        passes=10,
        reason=(
            "YOLOv3 on mobilenet1.0 learns thousands of objects best: mAP 0.88 on blood cells (255 images) after 7 "
            "minutes on two cores, CenterNet 0.79 after 11",
            "目标有几千个时 YOLOv3（mobilenet1.0）学得最好：blood cells（255 张）在两个核心上训练 7 分钟 mAP 0.88，"
            "CenterNet 训练 11 分钟为 0.79",
        ),
        many_objects=2000,
        least_size=256,
    ),
    _network("classification", "classification", "Classification", True, 8),
    _network("classification", "classification", "Classification", False, 20),
    _network("reid", "reid", "ReID", True, 8),
    _network("reid", "reid", "ReID", False, 20),
    _network("landmark", "landmark", "Landmark", True, 8),
    _network("landmark", "landmark", "Landmark", False, 20),
)
"""In the order of preference: the first that suits is taken, unless there are many objects, and time for them."""


@dataclass
class Suggestion:
    """A configuration, and why it is as it is."""

    script: str
    values: dict[str, Any]
    reasons: list[Words] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Suggest as the command line says; the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    write_anything()
    ask_for(asked_in(words))
    return carry_out(_suggest, _parser().parse_args(words))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m common.suggest",
        description=said(
            "Look at a folder of labelled images and at this machine, and write a configuration that trains the best "
            "model that there is time for. Nothing is trained; the command that does it is printed.",
            "查看一个带标注的图像文件夹和本机，写出在给定时间内能训练出最好模型的配置。不进行训练，只给出训练命令。",
        ),
    )
    parser.add_argument(
        "folder",
        type=named_path,
        metavar="FOLDER",
        help=said("a set, or an export with several sets", "一个数据集，或含多个数据集的导出"),
    )
    parser.add_argument(
        "--out",
        type=named_path,
        required=True,
        metavar="FILE",
        help=said("the configuration to write", "要写出的配置文件"),
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help=said(
            "wall time of the job (default: %(default)g)", "整个任务的时长，单位为分钟（默认 %(default)g）"
        ),
    )
    parser.add_argument(
        "--task",
        choices=_TASKS,
        help=said("what the labels are for (default: found out)", "标注的用途（默认自动识别）"),
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=said(
            "use VALUE for a key instead of what would be suggested; may be repeated",
            "用 VALUE 代替建议的参数值；可多次使用",
        ),
    )
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        help=said(
            "language of the help and the reasons (default: as the locale says)",
            "帮助和理由所用的语言（默认取决于系统语言环境）",
        ),
    )
    return parser


def _suggest(options: argparse.Namespace) -> None:
    if not 0 < options.minutes <= 1_000_000:
        raise ConfigurationError(
            f"--minutes: {options.minutes:g} is not allowed: it must be a number above 0 and at most 1000000"
        )
    if options.out.is_dir():
        raise ConfigurationError(
            f"--out: {printable(str(options.out))} is a folder; name a file, such as job.json"
        )
    try:  # before the time is spent
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigurationError(
            f"--out: {printable(str(options.out))} cannot be written: {error.strerror}"
        ) from None
    made = suggest(options.folder, options.minutes, options.task, options.set, options.out)
    if os.path.lexists(options.out):  # somebody may have worked on it
        former = options.out.with_name(f"{options.out.name}~")
        os.replace(options.out, former)
        print(said(f"What was {options.out} is {former} now", f"原来的 {options.out} 现在是 {former}"))
    with replacing(options.out, "w") as file:
        json.dump(made.values, file, ensure_ascii=False, indent=2)
        file.write("\n")
    for reason in made.reasons:
        print(said(*reason))
    command = [_python(), made.script, "--config", str(options.out)]
    print(said("Train it with:", "开始训练："))
    print(shlex.join(command), flush=True)


def _python() -> str:
    """The interpreter as one would type it."""
    here = os.path.relpath(sys.executable)
    return here if not here.startswith("..") else sys.executable


def suggest(
    folder: Path, minutes: float, task: str | None, overrides: Sequence[str], out: Path
) -> Suggestion:
    """A configuration that trains on `folder` in so many minutes. out: the file that it is for. Raises JobError."""
    data = look(folder, task)
    gpus = _usable_gpus()
    made = Suggestion("", {})
    made.reasons.append(
        (
            f"{printable(str(folder))}: {_IN_WORDS[data.does][0]}; labels: {data.format}, {one_line(data.why[0])}",
            f"{printable(str(folder))}：{_IN_WORDS[data.does][1]}；标注格式 {data.format}（{one_line(data.why[1])}）",
        )
    )
    left_out: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as place,
        WorkerPool(min(16, processors())) as pool,
        _without_log(),
    ):
        report = Report(Path(place) / "report.json", left_out.update)
        first = _choices(data.does)[0]
        values = _values(data, first, minutes, gpus, out, first.batch, first.sizes[-1])
        config = _checked(first, values, overrides)
        prepared = prepare(
            config, Options(config=None), first.task, pool=pool, steps=_quiet, report=report, keep=False
        )
        sets = prepared.data
        assert sets is not None
        assert prepared.devices is not None
        made.reasons.append(_counts(data, sets))
        if lost := sum(left_out.values()):
            made.reasons.append(
                (
                    f"Images or labels that are left out: {lost} (the training names each, and with --check at once)",
                    f"有 {lost} 个图像或标注不参与训练：训练时会逐一指出，加 --check 可立即查看",
                )
            )
        seconds = minutes * 60.0 - _AROUND
        for chosen in _candidates(data, sets):
            batch = _batch(chosen, sets)
            values_of = partial(_values, data, chosen, minutes, gpus, out, batch)
            measured = chosen.sizes[len(chosen.sizes) // 2]
            timed = _imported(chosen.task)(_checked(chosen, values_of(measured), overrides))
            a_step = time_a_step(timed, sets, prepared.devices, pool, prepared.engine)
            sizes = list(_sizes(chosen, sets, batch, seconds, a_step, measured))
            if _steps(seconds, a_step, sizes[0] / measured) >= _needed(chosen, sets, batch):
                break
        made.script = chosen.script
        for size in sizes:
            made.values = values_of(size)
            task_made = _imported(chosen.task)(_checked(chosen, made.values, overrides))
            if task_made.input_figures(sets.train).get("small", 0.0) < SMALL_SHARE:
                break
        if _kept(chosen, task_made.config):
            made.reasons.append(chosen.reason)
        apply_overrides(made.values, overrides)
        made.reasons += _said(chosen, sets, task_made, a_step * _area(task_made) / _area(timed))
        made.reasons += _data_advice(data, sets, task_made, Path(place) / "report.json")
    return made


def _usable_gpus() -> list[int]:
    """The first GPU that any engine here can compute on, as a list; none where there is none."""
    visible = visible_gpus()
    for gpu in visible:
        try:
            choose_engine("auto", [gpu.index], visible)
        except DeviceError:
            continue
        return [gpu.index]
    return []


def _kept(choice: Choice, config: JobConfig) -> bool:
    """Whether the model is the one that was chosen, and not what --set says."""
    section = config.model
    return all(getattr(section, key) == value for key, value in choice.keys["model"].items())


def _area(task: Task[Any]) -> int:
    """Pixels of the input."""
    return task.shape[0] * task.shape[1]


@contextmanager
def _without_log() -> Iterator[None]:
    """What a training says of the data is for the training."""
    log = logging.getLogger(LOGGER)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _quiet(step: Step) -> Iterator[Any]:
    yield lambda fraction: None


# The data


def look(folder: Path, task: str | None = None) -> Data:
    """What lies in a folder. task: what it is labelled for; None: found out. Raises ConfigurationError, DataError."""
    if not folder.is_dir():
        raise ConfigurationError(f"FOLDER: {printable(str(folder))} is not a folder")
    source = str(spelled_out(folder))
    folders = set_folders(source)
    if "train" not in folders:
        folders = {"train": "."}
    root = source
    if folders == {"train": "."}:
        root, name = os.path.split(os.path.abspath(source))
        folders = {"train": name}
    place = os.path.join(root, folders["train"])
    listing = Listing(place)
    if not listing.images:
        raise DataError(f"FOLDER: {printable(place)} holds no image (.jpg .jpeg .png .bmp)")
    does, kind, why = _purpose(root, place, listing, task)
    if task is None and does == "classification" and _has_new_classes(root, folders, listing):
        does = "reid"
    classes: tuple[str, ...] = ()
    if kind == "txt" and does == "detection":
        classes = tuple(txt.names_beside(Place(root, place, None, "train", does)))
    if does == "reid" and kind == "market1501":
        folders = {"train": folders["train"]}
        if all(os.path.isdir(os.path.join(root, name)) for name in ("query", "bounding_box_test")):
            folders["test"] = "."
    joints = _joints(Place(root, place, None, "train"), listing, kind) if does == "landmark" else 0
    return Data(does, root, folders, len(listing.images), kind, why, classes, joints)


def _has_new_classes(root: str, folders: Mapping[str, str], train: Listing) -> bool:
    """Whether a validation or test set shows what training does not: only identities may be new."""
    known = set(train.class_folders)
    others = [folder for part, folder in folders.items() if part != "train"]
    return any(not known.issuperset(Listing(os.path.join(root, folder)).class_folders) for folder in others)


def _purpose(root: str, folder: str, listing: Listing, task: str | None) -> tuple[str, str, Words]:
    """What a set is labelled for, the format, and the reason for that."""
    found: dict[str, tuple[str, Words]] = {}
    unread: JobError | None = None  # labels that say nothing to one task may be fine for another
    for does in (task,) if task else _TASKS:
        try:
            kind, why = recognise(Place(root, folder, None, "train", does), listing)
            known = why != NOTHING_ELSE
            # Boxes alone, in a format that has points too, are no landmarks.
            if known and (does != "landmark" or _joints(Place(root, folder, None, "train"), listing, kind)):
                found[does] = kind, why
        except JobError as error:
            unread = unread or error
    if not found and unread:
        raise unread
    if not found:
        what = task or "boxes, classes or keypoints"
        raise DataError(
            f"FOLDER: {printable(folder)} has no labels for {what} that are known: beside the images, or in folders of "
            "classes (docs/data.md)"
        )
    if "reid" in found and "classification" in found:
        del found["reid"]  # --task reid says otherwise
    does = next(does for does in ("reid", "landmark", "detection", "classification") if does in found)
    return does, *found[does]


def _joints(place: Place, listing: Listing, kind: str) -> int:
    """Keypoints of a thing in a set: names of points where they have some, else their number; 0: it has none."""
    opened = READERS[kind].read(replace(place, task="landmark"), listing)
    names: set[str] = set()
    most = 0
    pairs = list(zip(opened.images, opened.entries, strict=True))
    for image, entry in pairs[:: max(len(pairs) // _LOOKED_AT, 1)]:
        try:
            things = opened.parse(image, entry, *probe(image)).objects
        except (ImageError, BadSample):
            continue
        names |= {point.name for thing in things for point in thing.points if point.name is not None}
        most = max([most, *(len(thing.points) for thing in things)])
    return len(opened.keypoints or names) or most


def _counts(data: Data, sets: Datasets) -> Words:
    images = len({sample.image for sample in sets.train})
    valid = len({sample.image for sample in sets.valid or ()})
    english, chinese = (
        f"{images} images to train on, {valid} to validate",
        f"训练图像 {images} 张，验证图像 {valid} 张",
    )
    if data.does == "detection":
        objects = _objects(sets)
        english += f", {objects} objects of {len(sets.classes)} classes"
        chinese += f"，{len(sets.classes)} 个类别的 {objects} 个目标"
    elif sets.classes:
        english, chinese = f"{english}, {len(sets.classes)} classes", f"{chinese}，{len(sets.classes)} 个类别"
    return english, chinese


def _objects(sets: Datasets) -> int:
    return sum(len(objects_of(sample.annotation)) for sample in sets.train)


# The choice


def _choices(does: str) -> list[Choice]:
    """What there is for a task, the preferred first."""
    return [choice for choice in CHOICES if choice.does == does and choice.available()]


def _candidates(data: Data, sets: Datasets) -> Iterator[Choice]:
    """What is taken where there is time for it, and at last what is taken where there is not."""
    objects = _objects(sets) if data.does == "detection" else 0
    choices = _choices(data.does)
    for choice in choices:
        if objects >= choice.many_objects:
            yield replace(choice, sizes=tuple(size for size in choice.sizes if size >= choice.least_size))
    yield next(choice for choice in choices if objects <= choice.most_objects)


def _batch(choice: Choice, sets: Datasets) -> int:
    """Of few images a smaller batch, so that there are several steps to a pass."""
    batch = choice.batch
    while batch > 4 and len(sets.train) < 4 * batch:
        batch //= 2
    return batch


def _sizes(
    choice: Choice, sets: Datasets, batch: int, seconds: float, a_step: float, measured: int
) -> Iterator[int]:
    """Inputs to choose from: the largest at which there is time for the steps that a training needs and, should objects
    be too small in it, larger ones with time for half of them. None is much larger than the images are."""
    needed = _needed(choice, sets, batch)
    sides = sorted(max(sample.width, sample.height) for sample in sets.train)
    usual = sides[len(sides) // 2]
    smallest = choice.sizes[-1]
    steps = {
        size: _steps(seconds, a_step, size / measured)
        for size in choice.sizes
        if size <= max(_ENLARGED * usual, smallest)
    }
    first = max((size for size in steps if steps[size] >= needed), default=smallest)
    yield first
    yield from sorted(size for size in steps if size > first and steps[size] >= needed / 2)


def _steps(seconds: float, a_step: float, larger: float) -> float:
    """How many there are in so many seconds of a job. a_step: seconds of one at an input that is so many times
    smaller."""
    return seconds * _STEPPING / (a_step * larger**2)


def _needed(choice: Choice, sets: Datasets, batch: int) -> int:
    return max(choice.steps, choice.passes * -(-len(sets.train) // batch))


def _said(choice: Choice, sets: Datasets, task: Task[Any], a_step: float) -> Iterator[Words]:
    """What comes of the configuration of `task` here. a_step: seconds."""
    train, gpus, shape = task.config.train, task.config.gpus, f"{task.shape[0]} x {task.shape[1]}"
    needed = _needed(choice, sets, train.batch_size)
    a_pass = -(-len(sets.train) // train.batch_size)
    device: Words = (
        (f"GPU {gpus[0]}", f"GPU {gpus[0]}")
        if gpus
        else (f"{processors()} processors, no GPU", f"{processors()} 个处理器，无 GPU")
    )
    if not train.minutes:
        minutes = (train.epochs * a_pass * a_step / _STEPPING + _AROUND) / 60.0
        yield (
            f"Input {shape}, batches of {train.batch_size}, {train.epochs} epochs: about {minutes:.0f} minutes on this "
            f"machine ({device[0]})",
            f"输入 {shape}，批大小 {train.batch_size}，{train.epochs} 轮：在本机（{device[1]}）约需 {minutes:.0f} 分钟",
        )
        return
    minutes = train.minutes
    steps = max(minutes * 60.0 - _AROUND, 0.0) * _STEPPING / a_step
    passes = steps / a_pass
    yield (
        f"Input {shape}, batches of {train.batch_size}: in {minutes:g} minutes this machine ({device[0]}) makes about "
        f"{steps:.0f} steps, {passes:.0f} passes over the images; such a network needs {needed} steps",
        f"输入 {shape}，批大小 {train.batch_size}：{minutes:g} 分钟内本机（{device[1]}）约训练 {steps:.0f} 步，"
        f"遍历图像 {passes:.0f} 次；这样的网络需要 {needed} 步",
    )
    if steps < needed:
        enough = math.ceil((needed * a_step / _STEPPING + _AROUND) / 60.0)
        yield (
            f"That is little time for these images: about {enough} minutes would be enough (--minutes {enough})",
            f"对这些图像来说时间偏短：约需 {enough} 分钟（--minutes {enough}）",
        )
    yield (
        f"train.minutes {minutes:g}: the job takes {minutes:g} minutes in all; the learning rate falls along a cosine "
        "over them",
        f"train.minutes {minutes:g}：整个任务共 {minutes:g} 分钟，学习率在此期间按余弦下降",
    )


def _data_advice(data: Data, sets: Datasets, task: Task[Any], report: Path) -> Iterator[Words]:
    """What a job would say of the data at its end, and can be said before. report: what was read."""
    read = json.loads(report.read_text(encoding="utf-8"))
    groups = read.get("identical_images") or []
    if groups:
        yield (
            f"Images that are there more than once, byte for byte: {len(groups)} (--check names them)",
            f"有 {len(groups)} 张图像重复出现（逐字节相同）：--check 会列出",
        )
    facts = Facts(
        data.does,
        images=len({sample.image for sample in sets.train}),
        by_class=images_by_class(read.get("train", {})),
        valid=len(sets.valid or ()),
        inputs=task.input_figures(sets.train),
        shape=task.shape,
    )
    yield from (piece.text for piece in advise(facts) if piece.code in OF_DATA)


def validated_share(images: int) -> float:
    """The share of a set of so many images that is set aside to measure the model with."""
    return min(_VALIDATED, float(f"{_MOST_VALIDATED / images:.2g}"))


def _values(
    data: Data, choice: Choice, minutes: float, gpus: Sequence[int], out: Path, batch: int, size: int
) -> dict[str, Any]:
    """The content of the configuration."""
    dataset: dict[str, Any] = {"data_root": data.root}
    dataset |= {f"{part}_dir": folder for part, folder in data.folders.items()}
    if data.joints:
        dataset["num_joints"] = data.joints
    if "valid" not in data.folders and data.images >= _FEWEST_TO_SPLIT:
        dataset["valid_size"] = validated_share(data.images)
    if data.classes:
        dataset["classes"] = list(data.classes)
    values: dict[str, Any] = {
        "log_dir": str(Path("out") / out.stem),
        "dataset": dataset,
        "gpus": list(gpus),
        "model": {},
        "train": {"minutes": minutes, "batch_size": batch},
    }
    if not gpus and bfloat16_supported():
        values["model" if data.does == "detection" else "train"] |= (
            {"amp": True} if data.does == "detection" else {"dtype": "bfloat16"}
        )
    for more in (choice.keys, choice.sized(size)):
        for section, keys in more.items():
            values.setdefault(section, {}).update(keys)
    return values


def _checked(choice: Choice, values: Mapping[str, Any], overrides: Sequence[str]) -> JobConfig:
    """The configuration that the values, with overrides, stand for. Raises ConfigurationError."""
    made = JsonObject(json.loads(json.dumps(values)))
    errors = apply_overrides(made, overrides)
    config: JobConfig = configuration(_imported(choice.config), made, errors=errors)
    return config


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
