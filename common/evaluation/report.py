"""`report.html`: one file with everything about a model's training and its figures, pictures included.

It refers to nothing outside, holds no script, and forbids scripts: names of classes and files are text whatever they
look like. Language and colours are switched by style sheets alone, so that it also works in a frame without scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.evaluation import words
from common.evaluation.album import Album, Thumbnail
from common.evaluation.charts import Line, line_chart
from common.evaluation.markup import escaped, folded, number, said, table, titled
from common.evaluation.pictures import thumbnail
from common.evaluation.set_section import WORST_SHOWN, SetSection
from common.images.decoding import printable
from common.language import Words

_FILES_SHOWN = 200
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Training:
    """What was trained on what.

    facts: lines of a label and a text. configuration: as it was used, without what is secret. data: the content of
    data_report.json. sets: names of the sets in `data`. curves: for a tag of the progress page its (step, value).
    advice: what the figures mean, and what to do next.
    """

    facts: Sequence[tuple[Words, str]] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    sets: Sequence[str] = tuple(words.SETS)
    advice: Sequence[Words] = ()


def report(
    title: str,
    evaluations: Sequence[Mapping[str, Any]],
    training: Training | None = None,
    picture: Thumbnail = thumbnail,
) -> str:
    """The page for evaluations (`common.evaluation.document`) of sets, each under a name of its own."""
    album = Album(picture)
    # The sets' worst images have their pictures first, should there be too many.
    for evaluation in evaluations:
        for entry in evaluation["worst"][:WORST_SHOWN]:
            album.add(entry["image"])
    sections = [_head(title, evaluations)]
    if training is not None:
        if training.advice:
            lines = "".join(f"<li>{said(text)}</li>" for text in training.advice)
            title = said(("What the figures mean, and what to do next", "指标的含义与下一步"))
            sections.append(f"<section><h2>{title}</h2><ul>{lines}</ul></section>")
        sections += ["<section>", *_training(training), "</section>"]
    sections += [SetSection(evaluation, album).html() for evaluation in evaluations]
    style = Path(__file__).with_name("style.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style></head><body>{_switches()}"
        f'<div class="page">{_labels()}<main>{"".join(sections)}</main>{album.images()}</div></body></html>\n'
    )


def _switches() -> str:
    """What the labels at the top of the page switch, and the style sheet looks at."""
    return "".join(
        f'<input class="switch" type="radio" name="{name}" id="{choice}"{" checked" * (not index)}>'
        for name, choices in (("language", ("en", "zh")), ("colours", ("auto", "light", "dark")))
        for index, choice in enumerate(choices)
    )


def _labels() -> str:
    colours = (("auto", ("Auto", "自动")), ("light", ("Light", "浅色")), ("dark", ("Dark", "深色")))
    return (
        '<nav class="switches"><span><label for="en">English</label><label for="zh">中文</label></span><span>'
        + "".join(f'<label for="{choice}">{said(text)}</label>' for choice, text in colours)
        + "</span></nav>"
    )


def _head(title: str, evaluations: Sequence[Mapping[str, Any]]) -> str:
    tasks = dict.fromkeys(str(evaluation["task"]) for evaluation in evaluations)
    kinds = ", ".join(said(words.TASKS.get(task, (task, task))) for task in tasks)
    names = [str(evaluation["set"]) for evaluation in evaluations]
    links = " · ".join(f'<a href="#{escaped(name)}">{said(_set_name(name))}</a>' for name in names)
    return f'<h1>{escaped(title)}</h1><p class="soft">{kinds}</p><p>{links}</p>'


def _set_name(name: str) -> Words:
    """What a set is called, the same wherever it is named: in words, or as its folder."""
    return words.SETS.get(name, (name, name))


def _training(training: Training) -> Iterator[str]:
    yield f"<h2>{said(('What was trained on what', '训练内容'))}</h2>"
    if training.facts:
        yield table((), ((said(label), escaped(text)) for label, text in training.facts))
    sets = {
        name: training.data[name] for name in training.sets if isinstance(training.data.get(name), Mapping)
    }
    if sets:
        yield from _sets(sets)
    if training.configuration:
        text = json.dumps(training.configuration, ensure_ascii=False, indent=2, default=str)
        yield folded(("Configuration", "配置"), None, f"<pre>{escaped(text)}</pre>")
    if charts := list(_curves(training.curves)):
        yield f'<h3>{said(("Curves of the training", "训练曲线"))}</h3><div class="charts">{"".join(charts)}</div>'


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """A chart for each group of tags: what stands before the last stroke."""
    groups: dict[str, list[Line]] = {}
    for tag, points in curves.items():
        group, _, name = tag.rpartition("/")
        group = group or tag
        line = Line(printable(name), [step for step, _ in points], [value for _, value in points])
        groups.setdefault(group, []).append(line)
    for group, lines in groups.items():
        yield titled((group, group), line_chart(lines, ("batch", "批次"), ("", "")))


def _sets(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What there is in each set, by class, and what was left out."""
    columns: dict[str, Words] = {
        "images": ("images", "图像"),
        "samples": ("samples", "样本"),
        "format": ("format", "格式"),
        "left_out": ("left out", "略去"),
        "clipped": ("clipped", "裁剪"),
        "skipped": ("skipped", "跳过"),
    }
    yield table(
        ["", *map(said, columns.values())],
        (
            [
                f'{said(_set_name(name))}<br><span class="soft">{escaped(entry.get("folder", ""))}</span>',
                *(_count(entry.get(key)) for key in columns),
            ]
            for name, entry in sets.items()
        ),
    )
    counts = {name: _counts_by_class(entry) for name, entry in sets.items()}
    classes = list(dict.fromkeys(label for of_set in counts.values() for label in of_set))
    if classes:
        rows = (
            [escaped(label), *(number(of_set.get(label, 0)) for of_set in counts.values())]
            for label in classes
        )
        content = table(["", *(said(_set_name(name)) for name in sets)], rows)
        yield folded(("Counts by class", "各类数量"), len(classes), content)
    warnings = dict.fromkeys(text for entry in sets.values() for text in entry.get("warnings") or ())
    yield "".join(f"<p>⚠ {escaped(text)}</p>" for text in warnings)
    problems = [
        problem
        for entry in sets.values()
        for key in ("left_out", "clipped", "skipped")
        for problem in entry.get(key) or ()
    ]
    if problems:
        lines = [_problem(problem) for problem in problems[:_FILES_SHOWN]]
        lines += [f"… {len(problems) - _FILES_SHOWN}"] * (len(problems) > _FILES_SHOWN)
        content = f"<pre>{escaped(chr(10).join(lines))}</pre>"
        yield folded(("What was left out or changed", "略去或修改的内容"), len(problems), content)


def _counts_by_class(entry: Mapping[str, Any]) -> Mapping[str, int]:
    """Objects of each class, or samples, as the task's part of data_report.json has them."""
    if isinstance(entry.get("classes"), Mapping):
        return {name: row["objects"] for name, row in entry["classes"].items()}
    counts: Mapping[str, int] = entry.get("samples_by_class") or {}
    return counts


def _problem(problem: Mapping[str, Any]) -> str:
    line = "" if problem.get("line") is None else f":{problem['line']}"
    return f"{problem['file']}{line}: {problem['reason']}".replace("\n", " ")


def _count(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else number(value)
