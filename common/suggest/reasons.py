"""What is said of a suggestion: of the data, and of what comes of the configuration here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.advice import OF_DATA, Facts, advise, images_by_class
from common.datasets import Datasets
from common.engine.devices import processors
from common.language import Words
from common.suggest.choices import STEPPING, Choice, objects_in, steps_for
from common.suggest.data import Data
from common.task import Task

# Seconds of a job that are no training, where nothing else is known: to begin, and to validate and export.
AROUND = 20.0
IN_WORDS: dict[str, Words] = {
    "detection": ("find objects (detection)", "检测目标"),
    "landmark": ("find keypoints (landmarks)", "关键点定位"),
    "classification": ("tell classes of images apart (classification)", "图像分类"),
    "reid": ("recognise individuals (re-identification)", "重识别"),
}


def counts(data: Data, sets: Datasets) -> Words:
    """What there is to train on."""
    images = len({sample.image for sample in sets.train})
    valid = len({sample.image for sample in sets.valid or ()})
    english, chinese = (
        f"{images} images to train on, {valid} to validate",
        f"训练图像 {images} 张，验证图像 {valid} 张",
    )
    if data.does == "detection":
        objects = objects_in(sets)
        english += f", {objects} objects of {len(sets.classes)} classes"
        chinese += f"，{len(sets.classes)} 个类别的 {objects} 个目标"
    elif sets.classes:
        english, chinese = f"{english}, {len(sets.classes)} classes", f"{chinese}，{len(sets.classes)} 个类别"
    return english, chinese


def prospects(choice: Choice, sets: Datasets, task: Task[Any], a_step: float) -> Iterator[Words]:
    """What comes of the configuration of `task` here. a_step: seconds."""
    train, gpus, shape = task.config.train, task.config.gpus, f"{task.shape[0]} x {task.shape[1]}"
    needed = steps_for(choice, sets, train.batch_size)
    a_pass = -(-len(sets.train) // train.batch_size)
    device: Words = (
        (f"GPU {gpus[0]}", f"GPU {gpus[0]}")
        if gpus
        else (f"{processors()} processors, no GPU", f"{processors()} 个处理器，无 GPU")
    )
    if not train.minutes:
        minutes = (train.epochs * a_pass * a_step / STEPPING + AROUND) / 60.0
        yield (
            f"Input {shape}, batches of {train.batch_size}, {train.epochs} epochs: about {minutes:.0f} minutes on this "
            f"machine ({device[0]})",
            f"输入 {shape}，批大小 {train.batch_size}，{train.epochs} 轮：在本机（{device[1]}）约需 {minutes:.0f} 分钟",
        )
        return
    minutes = train.minutes
    steps = max(minutes * 60.0 - AROUND, 0.0) * STEPPING / a_step
    passes = steps / a_pass
    yield (
        f"Input {shape}, batches of {train.batch_size}: in {minutes:g} minutes this machine ({device[0]}) makes about "
        f"{steps:.0f} steps, {passes:.0f} passes over the images; such a network needs {needed} steps",
        f"输入 {shape}，批大小 {train.batch_size}：{minutes:g} 分钟内本机（{device[1]}）约训练 {steps:.0f} 步，"
        f"遍历图像 {passes:.0f} 次；这样的网络需要 {needed} 步",
    )
    if steps < needed:
        enough = math.ceil((needed * a_step / STEPPING + AROUND) / 60.0)
        yield (
            f"That is little time for these images: about {enough} minutes would be enough (--minutes {enough})",
            f"对这些图像来说时间偏短：约需 {enough} 分钟（--minutes {enough}）",
        )
    falls: Words = ("", "")
    if train.lr_mode == "cosine":
        falls = ("; the learning rate falls along a cosine over them", "，学习率在此期间按余弦下降")
    elif train.lr_mode == "step" and [epoch / train.epochs for epoch in train.lr_decay_epoch] == [0.9]:
        falls = ("; the learning rate falls in their last tenth", "，学习率在最后十分之一的时间内下降")
    yield (
        f"train.minutes {minutes:g}: the job takes {minutes:g} minutes in all{falls[0]}",
        f"train.minutes {minutes:g}：整个任务共 {minutes:g} 分钟{falls[1]}",
    )


def advice_on_data(data: Data, sets: Datasets, task: Task[Any], report: Path) -> Iterator[Words]:
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
