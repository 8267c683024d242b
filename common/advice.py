"""What a job's figures mean, and what would make the model better: rules with a figure behind each.

Every rule has a code that platforms know, a condition on what the job has seen, and a sentence in English and Chinese
that says what to do. Which training stands behind a rule is in benchmarks/QUALITY.md, by its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.data.figures import listed
from common.evaluation.document import MOST_SUSPECTS
from common.language import Words

# A class, or a whole set, of fewer training images is learnt badly from random parameters and unevenly in any case.
_FEW_IMAGES = 30
# Of so few validation images a single one changes the figures by two hundredths and more.
_FEW_VALIDATED = 50
# Optimizer steps that networks take to become of use, by what they begin with: parameters that know images, or random
# ones. Of detectors and of others.
_STEPS_OF_DETECTORS, _STEPS = (200, 330), (70, 400)
# A metric moves when it changes by more than this, absolutely and as a share of its best value.
_MOVES, _MOVES_SHARE = 0.02, 0.05
# Shares of the objects from which it pays to do something about them.
SMALL_SHARE, _UNCOVERED_SHARE = 0.1, 0.1
# So many labels that look wrong are worth a look, of large sets such a share of the images: a good classifier doubted 4
# labels of 119 that were right, and 10 to 11 where a twentieth was wrong.
_SUSPECTS, _SUSPECTS_SHARE = 3, 0.05
_NAMED = 5
# From these metrics on a model may be used, and its doubts about labels be heard: of the shipped set, whose labels are
# good, a detector of mAP 0.51 doubts 44.
_USABLE = {"mAP": 0.5, "accuracy": 0.7, "rank1": 0.7}
_TRUSTED = {"mAP": 0.7, "accuracy": 0.85, "rank1": 0.85}


@dataclass(frozen=True)
class Facts:
    """What a job knows at its end.

    does: detection, classification, reid or landmark. metric: the name of what is watched. curve: its values at the
    validations, by number of the step. steps: of the whole training. epochs, minutes: as they were asked for; minutes
    0: by epochs. images: of the training set. by_class: its images that show a class. valid: images of the validation
    set, 0: there is none. document: its evaluation, {} without. reported: objects that its result file lists. left_out:
    images that cannot be used. inputs: `Task.input_figures`. score_thresh: of the result files. pretrained: training
    began with parameters that know images. random: it did not, although they can be had here. shape: of the input.
    """

    does: str
    metric: str = ""
    curve: Sequence[tuple[float, float]] = ()
    steps: int = 0
    epochs: int = 0
    minutes: float = 0.0
    images: int = 0
    by_class: Mapping[str, int] = field(default_factory=dict)
    valid: int = 0
    document: Mapping[str, Any] = field(default_factory=dict)
    reported: int | None = None
    left_out: int = 0
    inputs: Mapping[str, float] = field(default_factory=dict)
    score_thresh: float = 0.0
    pretrained: bool = False
    random: bool = False
    shape: tuple[int, int] = (0, 0)

    @property
    def figures(self) -> Mapping[str, Any]:
        """Of the validation set."""
        figures: Mapping[str, Any] = self.document.get("figures", {})
        return figures

    def longer_by(self, factor: float = 2.0) -> str:
        """A training of so many times the length, as keys have it."""
        if self.minutes:
            return f"train.minutes {float(f'{factor * self.minutes:.2g}'):g}"
        return f"train.epochs {math.ceil(round(factor * self.epochs, 6))}"


@dataclass(frozen=True)
class Advice:
    """One piece of it: the code, and the sentence in English and Chinese."""

    code: str
    text: Words

    def entry(self, language: str) -> dict[str, str]:
        """As it stands in status.json. language: en or zh."""
        return {"code": self.code, "text": self.text[language == "zh"]}


@dataclass(frozen=True)
class Rule:
    """When something is said, and what. when: the figures for the sentence, None: it does not apply."""

    code: str
    when: Callable[[Facts], Mapping[str, Any] | None]
    english: str
    chinese: str


def advise(facts: Facts) -> list[Advice]:
    """What there is to say, the meaning of the figures first."""
    advice = []
    for rule in RULES:
        figures = rule.when(facts)
        if figures is not None:
            text = (rule.english.format(**figures), rule.chinese.format(**figures))
            advice.append(Advice(rule.code, text))
    return advice


# What the figures mean


def _of_detection(facts: Facts) -> Mapping[str, Any] | None:
    figures = facts.figures
    if facts.does != "detection" or figures.get("best_thresh") is None:
        return None
    return {
        "found": _in_ten(figures["recall"] or 0.0),
        "right": _in_ten(figures["precision"] or 0.0),
        "score": f"{figures['best_thresh']:.2g}",
        "mAP": f"{figures['mAP'] or 0.0:.2f}",
    }


def _of_classes(facts: Facts) -> Mapping[str, Any] | None:
    if facts.does != "classification" or facts.figures.get("accuracy") is None:
        return None
    most = max((row["samples"] for row in facts.document["by_class"].values()), default=0)
    return {"right": _in_ten(facts.figures["accuracy"]), "guessed": _in_ten(most / max(facts.valid, 1))}


def _of_identities(facts: Facts) -> Mapping[str, Any] | None:
    if facts.does != "reid" or facts.figures.get("rank1") is None:
        return None
    return {"right": _in_ten(facts.figures["rank1"])}


def _of_points(facts: Facts) -> Mapping[str, Any] | None:
    if facts.does != "landmark" or facts.figures.get("NME") is None:
        return None
    return {"share": f"{facts.figures['NME']:.1%}", "pixels": f"{facts.figures['RMSE']:.1f}"}


def _in_ten(share: float) -> str:
    """A share as so many of ten, to half of one: 7, 7.5."""
    return f"{round(20 * share) / 2:g}"


# Rules: each the figures for its sentence, or None


def _below_threshold(facts: Facts) -> Mapping[str, Any] | None:
    if facts.does != "detection" or facts.reported != 0 or not facts.document:
        return None
    scores = facts.document.get("curves", {}).get("overall", {}).get("score") or [0.0]
    best = facts.figures.get("best_thresh")
    return {
        "thresh": f"{facts.score_thresh:g}",
        "highest": f"{max(scores):.2f}",
        "score": "0.1" if best is None else f"{best:.2g}",
        "longer": facts.longer_by(),
    }


def _thirds(facts: Facts) -> tuple[float, float] | None:
    """The means of the metric over the last third of the training and over the one before it."""
    known = [(step, value) for step, value in facts.curve if math.isfinite(value)]
    if len(known) < 3 or not facts.steps:
        return None
    last = [value for step, value in known if step > facts.steps * 2 / 3]
    before = [value for step, value in known if facts.steps / 3 < step <= facts.steps * 2 / 3]
    if not last or not before:
        return None
    return sum(last) / len(last), sum(before) / len(before)


def _moves(facts: Facts, change: float) -> bool:
    best = max((abs(value) for _, value in facts.curve if math.isfinite(value)), default=0.0)
    return change > max(_MOVES_SHARE * best, _MOVES if facts.does != "landmark" else 0.0)


def _still_improving(facts: Facts) -> Mapping[str, Any] | None:
    means = _thirds(facts)
    if means is None or not _moves(facts, means[0] - means[1]):
        return None
    known = [value for _, value in facts.curve if math.isfinite(value)]
    # There is nothing above 1; of landmarks the metric is an error, below 0.
    if max(known[-2:]) < max(known) or max(known) >= 1.0:
        return None
    return {"metric": facts.metric, "gain": f"{means[0] - means[1]:.2g}", "longer": facts.longer_by()}


def _overfitting(facts: Facts) -> Mapping[str, Any] | None:
    known = [(step, value) for step, value in facts.curve if math.isfinite(value)]
    if len(known) < 4 or not facts.steps:
        return None
    step, best = max(known, key=lambda point: point[1])
    last = known[-1][1]
    # What came out at the end, and just before it: one bad validation is no decline. Nor is what chance does to a share
    # of so few images.
    decline = best - max(last, known[-2][1])
    chance = 0.5 / math.sqrt(facts.valid) if facts.valid and facts.does != "landmark" else 0.0
    if step > facts.steps * 2 / 3 or decline <= chance or not _moves(facts, decline):
        return None
    return {
        "metric": facts.metric,
        "best": f"{best:.2f}",
        "last": f"{last:.2f}",
        "share": f"{step / facts.steps:.0%}",
    }


def _few_of_a_class(facts: Facts) -> Mapping[str, Any] | None:
    few = {name: count for name, count in facts.by_class.items() if count < _FEW_IMAGES}
    if not few or facts.does == "reid":
        return None
    named = sorted(few, key=few.__getitem__)
    return {"few": _FEW_IMAGES, "classes": listed([f"{name} ({few[name]})" for name in named], _NAMED)}


def _small_objects(facts: Facts) -> Mapping[str, Any] | None:
    share = facts.inputs.get("small", 0.0)
    if share < SMALL_SHARE:
        return None
    wanted = [_larger(side, facts.inputs["small_side"]) for side in facts.shape]
    return {
        "share": f"{share:.0%}",
        "side": f"{facts.inputs['limit']:g}",
        "shape": f"[{facts.shape[0]}, {facts.shape[1]}]",
        "wanted": f"[{wanted[0]}, {wanted[1]}]",
    }


def _larger(side: int, tenth: float) -> int:
    """A side of the input at which the smallest tenth of the objects is at the limit, at most twice as large."""
    return min(math.ceil(side * min(8.0 / max(tenth, 1e-6), 2.0) / 32) * 32, 2 * side)


def _uncovered(facts: Facts) -> Mapping[str, Any] | None:
    share = facts.inputs.get("uncovered", 0.0)
    return {"share": f"{share:.0%}"} if share >= _UNCOVERED_SHARE else None


def _left_out(facts: Facts) -> Mapping[str, Any] | None:
    return {"count": facts.left_out} if facts.left_out else None


def _suspects(facts: Facts) -> Mapping[str, Any] | None:
    count = len(facts.document.get("suspects", ()))
    worth = min(max(_SUSPECTS, _SUSPECTS_SHARE * facts.valid), MOST_SUSPECTS)
    # What a poor model takes for wrong says nothing about the labels.
    if count < worth or _below(facts, _TRUSTED):
        return None
    return {"count": f"{count}+" if count == MOST_SUSPECTS else count}  # no more are listed


def _no_validation(facts: Facts) -> Mapping[str, Any] | None:
    return None if facts.valid else {}


def _few_validated(facts: Facts) -> Mapping[str, Any] | None:
    return {"count": facts.valid} if 0 < facts.valid < _FEW_VALIDATED else None


def _few_images(facts: Facts) -> Mapping[str, Any] | None:
    return {"count": facts.images} if facts.images < _FEW_IMAGES else None


def steps_needed(does: str, pretrained: bool) -> int:
    """Optimizer steps that a network takes to become of use. pretrained: from parameters that know images."""
    known, random = _STEPS_OF_DETECTORS if does == "detection" else _STEPS
    return known if pretrained else random


def _few_steps(facts: Facts) -> Mapping[str, Any] | None:
    needed = steps_needed(facts.does, facts.pretrained)
    if not 0 < facts.steps < needed or not _below(facts, _USABLE):
        return None
    return {"steps": facts.steps, "few": needed, "longer": facts.longer_by(max(2.0, needed / facts.steps))}


def _below(facts: Facts, limits: Mapping[str, float]) -> bool:
    """Whether the model is below the limit of its metric, as far as is known."""
    value = facts.curve[-1][1] if facts.curve else math.nan
    limit = limits.get(facts.metric)
    return limit is not None and not value >= limit


def _random(facts: Facts) -> Mapping[str, Any] | None:
    return {} if facts.random else None


RULES: tuple[Rule, ...] = (
    Rule(
        "figures",
        _of_detection,
        "Of 10 objects in the validation images it finds {found}, and of 10 that it reports {right} are right (what "
        "scores {score} and more counted; mAP {mAP})",
        "在验证图像中，每 10 个目标约找到 {found} 个；每报告 10 个约有 {right} 个正确"
        "（按得分不低于 {score} 计；mAP {mAP}）",
    ),
    Rule(
        "figures",
        _of_classes,
        "Of 10 validation images it recognises {right}; to name the most frequent class each time would be right in "
        "{guessed}",
        "每 10 张验证图像约识别对 {right} 张；若总是回答最多的类别，则约对 {guessed} 张",
    ),
    Rule(
        "figures",
        _of_identities,
        "For {right} of 10 validation images the most similar other one shows the same identity",
        "每 10 张验证图像中，约有 {right} 张的最相似图像属于同一身份",
    ),
    Rule(
        "figures",
        _of_points,
        "Points are off by {share} of the object's size on average ({pixels} px)",
        "关键点平均偏差为目标尺寸的 {share}（{pixels} 像素）",
    ),
    Rule(
        "below_threshold",
        _below_threshold,
        "No object of the validation images scores {thresh} or more (the highest score is {highest}), so the result "
        "file lists none: see more with --score {score} in common.predict, and train longer ({longer})",
        "验证图像中没有目标的得分达到 {thresh}（最高 {highest}），因此结果文件中没有目标：用 common.predict 的 "
        "--score {score} 可看到更多，并请延长训练（{longer}）",
    ),
    Rule(
        "still_improving",
        _still_improving,
        "The {metric} was still rising at the end (by {gain} over the last third): train longer, {longer}",
        "训练结束时 {metric} 仍在上升（最后三分之一提高了 {gain}）：请延长训练，{longer}",
    ),
    Rule(
        "few_steps",
        _few_steps,
        "The network took {steps} steps, and one that begins as it did needs {few} and more: {longer}, or a smaller "
        "input or network",
        "网络只训练了 {steps} 步，以这样的初始参数开始的网络至少需要 {few} 步：{longer}，或使用更小的输入或网络",
    ),
    Rule(
        "overfitting",
        _overfitting,
        "The best {metric}, {best}, came after {share} of the training, and fell to {last}: the network learnt the "
        "training images by heart. The best one was kept; more images help, a longer training does not",
        "最佳 {metric} 为 {best}，出现在训练的 {share} 处，之后降到 {last}：网络记住了训练图像。已保留最佳模型；"
        "增加图像有帮助，延长训练没有",
    ),
    Rule(
        "random_start",
        _random,
        "Training began with random parameters, though pretrained ones are here: with model.use_pretrained (of "
        "detectors: train.pretrained_base) true fewer images do",
        "训练从随机参数开始，而本机有预训练参数：将 model.use_pretrained（检测为 train.pretrained_base）设为 true，"
        "所需图像更少",
    ),
    Rule(
        "few_images",
        _few_images,
        "There are {count} training images: a hundred are a beginning, and more help more than anything else",
        "训练图像只有 {count} 张：一百张是起点，增加图像比什么都有效",
    ),
    Rule(
        "class_with_few_images",
        _few_of_a_class,
        "Of some classes there are fewer than {few} training images: {classes}. Add images that show them",
        "有些类别的训练图像少于 {few} 张：{classes}。请补充包含这些类别的图像",
    ),
    Rule(
        "small_objects",
        _small_objects,
        "{share} of the objects are smaller than {side} px in the input of {shape}, where little of them is left: set "
        "model.data_shape to {wanted}, or cut the photos into parts",
        "{share} 的目标在 {shape} 的输入中小于 {side} 像素，几乎看不清：请将 model.data_shape 设为 {wanted}，"
        "或将图像切块",
    ),
    Rule(
        "boxes_without_anchor",
        _uncovered,
        "{share} of the objects have a shape or size that no anchor is near: SSD fits its anchors to them with "
        "model.anchor_fit (detect/fit_ssd.py), and CenterNet has none (detect/fit_center_net.py)",
        "{share} 的目标形状或大小与所有锚框相差较大：SSD 可用 model.anchor_fit 使锚框适应目标（detect/fit_ssd.py），"
        "CenterNet 不使用锚框（detect/fit_center_net.py）",
    ),
    Rule(
        "left_out",
        _left_out,
        "{count} images or labels could not be used: data_report.json names each with its reason",
        "有 {count} 个图像或标注无法使用：data_report.json 列出了每一个及原因",
    ),
    Rule(
        "suspect_labels",
        _suspects,
        "{count} labels of the validation images look wrong or missing: report.html shows them; correct them and train "
        "again",
        "验证图像中有 {count} 个标注看起来有误或缺失：report.html 中可以看到；请改正后重新训练",
    ),
    Rule(
        "no_validation",
        _no_validation,
        "Nobody knows how good the model is, for there is no validation set: dataset.valid_size 0.2 sets a fifth of "
        "the images aside",
        "没有验证集，无法得知模型好坏：dataset.valid_size 0.2 会留出五分之一的图像",
    ),
    Rule(
        "few_validation_images",
        _few_validated,
        "The figures come from {count} validation images, and are rough: differences of a few hundredths say nothing",
        "指标仅来自 {count} 张验证图像，比较粗略：百分之几的差别没有意义",
    ),
)
"""In the order in which they are said."""

OF_DATA = ("few_images", "class_with_few_images", "small_objects", "boxes_without_anchor", "no_validation")
"""Codes of what can be said before a training."""


def images_by_class(train: Mapping[str, Any]) -> dict[str, int]:
    """Training images that show each class, as the task's part of data_report.json has them."""
    if isinstance(train.get("classes"), Mapping):
        return {name: row["images"] for name, row in train["classes"].items()}
    return dict(train.get("samples_by_class") or {})
