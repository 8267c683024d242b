"""The part of a report about one set: figures, charts, tables, confusion matrix, and the images that show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.evaluation import words
from common.evaluation.album import Album
from common.evaluation.charts import Line, bar_chart, line_chart
from common.evaluation.markup import escaped, folded, legend, number, said, table, titled
from common.images.decoding import printable

WORST_SHOWN = 24
_SUSPECTS_SHOWN, _CELLS_SHOWN, _PAIRS_SHOWN = 12, 60, 60
_MOST_LINES = 40
# The confusion matrix of more classes is shown as a list of the pairs that are mixed up most.
_MOST_IN_MATRIX = 40

Cell = tuple[int, int]


class SetSection:
    """One evaluation (`common.evaluation.document`) as HTML; its pictures go into the album."""

    def __init__(self, evaluation: Mapping[str, Any], album: Album) -> None:
        self._evaluation = evaluation
        self._album = album
        self._id = escaped(evaluation["set"])
        self._worst = evaluation["worst"][:WORST_SHOWN]
        # The card of each image that has one.
        self._cards = {entry["image"]: self._card_id(place) for place, entry in enumerate(self._worst)}

    def html(self) -> str:
        """The section."""
        evaluation, name = self._evaluation, str(self._evaluation["set"])
        parts = [
            f'<section id="{self._id}"><h2>{said(words.SETS.get(name, (name, name)))}</h2>',
            self._figures(),
        ]
        if charts := [*self._score_charts(), *self._further_charts()]:
            parts.append(f'<div class="charts">{"".join(charts)}</div>')
        if evaluation["by_class"]:
            heading = ("By point", "按关键点") if evaluation["task"] == "landmark" else ("By class", "按类别")
            parts.append(f"<h3>{said(heading)}</h3>{_by_class(evaluation['by_class'])}")
        if evaluation["confusion"]:
            parts += self._confusion()
        parts += self._gallery()
        parts += self._suspects()
        return "".join(parts) + "</section>"

    def _figures(self) -> str:
        figures = self._evaluation["figures"]
        leading = [name for name in words.LEADING if name in figures]
        cells = []
        for name in leading:
            label, meaning = words.FIGURES[name]
            cells.append(
                f'<div class="{"lead" if name == leading[0] else ""}"><span>{said(label)}</span>'
                f'{_exact(name, figures[name])}<span class="soft">{said(meaning)}</span></div>'
            )
        rows = []
        for name in (name for name in figures if name not in leading):
            label, meaning = words.FIGURES.get(name, ((name, name), ("", "")))
            rows.append(
                (said(label), _exact(name, figures[name]), f'<span class="soft">{said(meaning)}</span>')
            )
        further = folded(("Further figures", "更多指标"), len(rows), table((), rows)) if rows else ""
        return f'<div class="figures">{"".join(cells)}</div>{further}'

    def _score_charts(self) -> Iterator[str]:
        """Precision, recall and F1 over the score, of all classes together and of each."""
        curves = self._evaluation["curves"]
        named = [("∑", curves["overall"], True)] if "overall" in curves else []
        by_class = [
            (name, curve) for name, curve in curves.get("precision_recall", {}).items() if curve["recall"]
        ]
        if len(by_class) > _MOST_LINES:  # the worst are those to look at
            by_class = sorted(by_class, key=lambda entry: max(entry[1]["f1"]))[:_MOST_LINES]
        named += [(printable(name), curve, False) for name, curve in by_class]
        if not named:
            return
        axes: dict[str, Any] = {"x_range": (0, 1), "y_range": (0, 1)}
        lines = [Line(name, curve["recall"], curve["precision"], main) for name, curve, main in named]
        chart = line_chart(lines, ("recall", "召回率"), ("precision", "精确率"), **axes)
        yield titled(("Precision and recall", "精确率与召回率"), chart)
        lines = [Line(name, curve["score"], curve["f1"], main) for name, curve, main in named]
        best = self._evaluation["figures"].get("best_thresh")
        mark = None if best is None else (best, f"{best:g}")
        chart = line_chart(lines, ("score threshold", "分数阈值"), ("F1", "F1"), mark=mark, **axes)
        yield titled(("F1 by threshold", "F1 与阈值"), chart)

    def _further_charts(self) -> Iterator[str]:
        """The curves that one task alone has."""
        curves = self._evaluation["curves"]
        if bins := curves.get("reliability"):
            line = Line("", bins["confidence"], bins["accuracy"], main=True)
            axes: dict[str, Any] = {"x_range": (0, 1), "y_range": (0, 1), "diagonal": True}
            chart = line_chart([line], ("confidence", "置信度"), ("accuracy", "准确率"), **axes)
            yield titled(("Is it right as often as it says?", "置信度是否可信"), chart)
        if errors := curves.get("cumulative_error"):
            line = Line("", errors["nme"], errors["share"], main=True)
            labels = ("NME of an image", "单图 NME"), ("share of the images", "图像比例")
            yield titled(
                ("Cumulative curve of errors", "累积误差曲线"), line_chart([line], *labels, y_range=(0, 1))
            )
            points = self._evaluation["by_class"]
            values = [math.nan if row["nme"] is None else row["nme"] for row in points.values()]
            chart = bar_chart(
                [printable(name) for name in points], values, ("point", "关键点"), ("NME", "NME")
            )
            yield titled(("Error by point", "各关键点误差"), chart)
        if ranks := curves.get("ranks"):
            line = Line("", ranks["rank"], ranks["share"], main=True)
            labels = ("rank", "名次"), ("share of the queries", "查询比例")
            yield titled(
                ("Found among the first", "前 N 名内找到"), line_chart([line], *labels, y_range=(0, 1))
            )

    def _confusion(self) -> Iterator[str]:
        counts = self._evaluation["confusion"]
        labels = [escaped(name) for name in self._evaluation["classes"]]
        labels += [said(words.BACKGROUND)] * (len(counts) - len(labels))
        images = {
            (cell["row"], cell["column"]): cell["images"]
            for cell in self._evaluation.get("confusion_images", ())
        }
        wrong = [
            (value, (row, column))
            for row, values in enumerate(counts)
            for column, value in enumerate(values)
            if value and row != column
        ]
        wrong.sort(key=lambda cell: (-cell[0], cell[1]))
        linked = {cell for _, cell in wrong[:_CELLS_SHOWN] if images.get(cell)}
        note = (
            "Rows: what is annotated. Columns: what is predicted. A number leads to its images.",
            "行：标注；列：预测。点击数字查看图像。",
        )
        yield f'<h3>{said(("Confusion matrix", "混淆矩阵"))}</h3><p class="soft">{said(note)}</p>'
        if len(counts) <= _MOST_IN_MATRIX:
            yield self._matrix(counts, labels, linked)
        else:
            head = map(said, (("annotated", "标注"), ("predicted", "预测"), ("number", "数量")))
            yield table(
                list(head),
                (
                    [labels[cell[0]], labels[cell[1]], self._linked(value, cell, linked)]
                    for value, cell in wrong[:_PAIRS_SHOWN]
                ),
            )
        cells = [
            f'<div class="cell" id="{self._cell_id(cell)}"><b>{labels[cell[0]]} → {labels[cell[1]]}: {value}</b>'
            f"{''.join(map(self._small, images[cell]))}</div>"
            for value, cell in wrong
            if cell in linked
        ]
        if cells:
            yield folded(("Images of the cells", "各格的图像"), len(cells), "".join(cells), is_open=True)

    def _matrix(self, counts: Sequence[Sequence[int]], labels: Sequence[str], linked: set[Cell]) -> str:
        rows = ""
        for row, values in enumerate(counts):
            total = max(sum(values), 1)
            cells = "".join(
                f'<td class="{"right" if row == column else "wrong" if value else ""}" '
                f'style="--share:{value / total:.3f}">{self._linked(value, (row, column), linked)}</td>'
                for column, value in enumerate(values)
            )
            rows += f"<tr><th>{labels[row]}</th>{cells}</tr>"
        head = "".join(f"<th>{label}</th>" for label in labels)
        return (
            f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def _linked(self, count: int, cell: Cell, linked: set[Cell]) -> str:
        return f'<a href="#{self._cell_id(cell)}">{count}</a>' if cell in linked else str(count)

    def _cell_id(self, cell: Cell) -> str:
        return f"{self._id}-cell-{cell[0]}-{cell[1]}"

    def _card_id(self, place: int) -> str:
        return f"{self._id}-worst-{place}"

    def _small(self, path: str) -> str:
        """A small picture that leads to its card, where it has one."""
        picture = f'{self._album.figure(path)}<span class="soft">{escaped(Path(path).name)}</span>'
        return (
            f'<a href="#{self._cards[path]}">{picture}</a>'
            if path in self._cards
            else f"<div>{picture}</div>"
        )

    def _gallery(self) -> Iterator[str]:
        if not self._worst:
            return
        yield f"<h3>{said(('The worst images', '最差的图像'))}</h3>"
        if any("objects" in entry for entry in self._worst):
            yield legend((f"k-{kind}", said(name)) for kind, name in words.VERDICTS.items())
        elif any("keypoints" in entry for entry in self._worst):
            yield legend(
                (("k-right", said(("predicted", "预测"))), ("k-missed", said(("annotated", "标注"))))
            )
        cards = (self._card(entry, self._card_id(place)) for place, entry in enumerate(self._worst))
        yield f'<div class="cards">{"".join(cards)}</div>'

    def _suspects(self) -> Iterator[str]:
        entries = self._evaluation["suspects"]
        if not entries:
            return
        note = (
            f"{len(entries)} labels that the predictions contradict: look at them first.",
            f"{len(entries)} 个标注与预测矛盾，建议先检查。",
        )
        yield f'<h3>{said(("Labels that may be wrong", "可能有误的标注"))}</h3><p class="soft">{said(note)}</p>'
        cards = (
            self._card(entry, f"{self._id}-suspect-{place}")
            for place, entry in enumerate(entries[:_SUSPECTS_SHOWN])
        )
        yield f'<div class="cards">{"".join(cards)}</div>'

    def _card(self, entry: Mapping[str, Any], anchor: str) -> str:
        neighbours = "".join(
            f'<div class="{"same" if row["right"] else ""}">{self._album.figure(row["image"])}'
            f"{escaped(row['identity'])} {row['cosine']:.3f}</div>"
            for row in entry.get("neighbours", ())
        )
        return (
            f'<div class="card" id="{anchor}">{self._album.figure(entry["image"], entry)}'
            f"{''.join(f'<p>{line}</p>' for line in _caption(entry))}"
            + (f'<div class="row">{neighbours}</div>' if neighbours else "")
            + f'<p class="name">{escaped(entry["image"])}</p></div>'
        )


def _exact(name: str, value: float | None) -> str:
    """A figure, which shows all its digits when it is pointed at."""
    exact = "" if value is None else repr(value)
    return f'<b title="{escaped(name)}: {escaped(exact)}">{number(value)}</b>'


def _caption(entry: Mapping[str, Any]) -> Iterator[str]:
    """What is to be said of an entry below its picture."""
    if reason := entry.get("reason"):
        yield f"<b>{said(words.REASONS.get(reason, (reason, reason)))}</b>"
    if errors := entry.get("errors"):
        yield ", ".join(f"{said(words.VERDICTS[kind])} {count}" for kind, count in errors.items() if count)
    if "predicted" in entry:
        annotated, predicted = (escaped(entry[key] or "–") for key in ("groundtruth", "predicted"))
        score = "" if entry.get("score") is None else f" {entry['score']:.3f}"
        yield (
            f"{said(('annotated', '标注'))}: <b>{annotated}</b> · "
            f"{said(('predicted', '预测'))}: <b>{predicted}</b>{score}"
        )
    if "identity" in entry:
        place = said(("place of the first right image", "首个正确图像的名次"))
        yield f"<b>{escaped(entry['identity'])}</b> · AP {number(entry['AP'])} · {place} {number(entry['first_right'])}"
    if "nme" in entry:
        yield f"NME <b>{number(entry['nme'])}</b>"


def _by_class(rows: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return table(
        ["", *(said(words.COLUMNS.get(name, (name, name))) for name in columns)],
        ([escaped(label), *(number(row.get(name)) for name in columns)] for label, row in rows.items()),
    )
