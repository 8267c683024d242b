"""What the values of a configuration may be, and which text means the same: platforms send forms as text.

A `Kind` stands in the annotation of a key. It turns what a JSON file may hold into the value, or refuses it,
and knows how to say what it takes: to people in two languages and to JSON Schema.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_WHOLE = r"\s*[+-]?[0-9]{1,100}(\.0*)?\s*"
# No part of a number may be read in two ways: a text of many digits that is none would take quadratic time.
_NUMBER = r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
# Most characters of a list in a text.
_LONGEST_LIST = 100_000
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_NULL = ("", "null", "none")
# Commas as typed in Western and in Chinese text.
_COMMAS = ",，、;；"

FORMATS = (
    "txt", "coco", "voc", "yolo", "labelme", "cvat", "labelstudio", "modelarts", "list", "market1501", "pts",
)  # fmt: skip
"""Names of the formats of labels that are read (`common.data.formats`)."""


def refuse(reason: str = "is not allowed") -> PydanticCustomError:
    """The error to raise for a value that cannot be taken; `reason` goes on after the value."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


@dataclass(frozen=True)
class Kind:
    """What a key takes.

    parse: from a value of a JSON file to the value of the key; raises `refuse(...)`.
    english, chinese: continue "it must be ..."; `config_keys.allowed` adds the limits of the field to them.
    text: pattern of the text forms. schema: the whole JSON Schema, where such a pattern does not do.
    """

    parse: Callable[[Any], Any]
    english: str
    chinese: str
    text: str | None = None
    schema: dict[str, Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if self.schema is not None:
            return dict(self.schema)
        own = handler(core)
        return {"anyOf": [own, {"type": "string", "pattern": f"^{self.text}$"}]} if self.text else own


def whole(value: Any) -> int:
    """3, 3.0, "3"; never a fraction, true or false."""
    if isinstance(value, str) and re.fullmatch(_WHOLE, value):
        return int(value.strip().split(".")[0])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise refuse()


def number(value: Any) -> float:
    """0.5, 1, "1e-3"; never true or false, not-a-number or infinite."""
    if isinstance(value, str) and not re.fullmatch(_NUMBER, value):
        raise refuse()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refuse()
    try:
        result = float(value)
    except OverflowError:
        raise refuse() from None
    if not math.isfinite(result):
        raise refuse()
    return result


def flag(value: Any) -> bool:
    """True, false, 1, 0 and their text, yes, no, on, off."""
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    folded = value.strip().casefold() if isinstance(value, str) else None
    if folded in _TRUE:
        return True
    if folded in _FALSE:
        return False
    raise refuse()


def optional_flag(value: Any) -> bool | None:
    """As `flag`, or null, "", "null", "None" for what the job finds out."""
    return None if is_null(value) else flag(value)


def text(value: Any) -> str:
    """Text with something in it that can name a file."""
    if not isinstance(value, str) or not value.strip():
        raise refuse()
    try:
        encoded = os.fsencode(value.strip())
    except UnicodeEncodeError:
        raise refuse("holds half a character") from None
    if b"\0" in encoded:
        raise refuse("holds a zero character")
    return value.strip()


def path(value: Any) -> Path:
    """A path, with `~` at its beginning replaced by the home folder."""
    try:
        return (value if isinstance(value, Path) else Path(text(value))).expanduser()
    except RuntimeError:
        raise refuse("begins with a home folder that is not known") from None


def folders(value: Any) -> str | tuple[str, ...]:
    """The name of a folder, or a list of different ones (also as JSON text)."""
    if isinstance(value, str) and value.strip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return text(value)  # a folder may have such a name
    if not isinstance(value, (list, tuple)):
        return text(value)
    names = tuple(text(item) for item in value)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise refuse(f"names the folder {json.dumps(twice[0], ensure_ascii=False)} more than once")
    if not names:
        raise refuse()
    return names if len(names) > 1 else names[0]


def optional_folders(value: Any) -> str | tuple[str, ...] | None:
    """As `folders`, or null, "", "null", "None", [] for none."""
    return None if is_null(value) or value in ([], ()) else folders(value)


def formats(value: Any) -> str | tuple[str, ...]:
    """auto or a format, in capitals or small letters; or a list of them (also as text with commas)."""
    if isinstance(value, str):
        value = _list_in(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise refuse()
    names = tuple(item.strip().casefold() if isinstance(item, str) else "" for item in value)
    unknown = [item for item, name in zip(value, names, strict=True) if name not in ("auto", *FORMATS)]
    if unknown:
        raise refuse()
    return names if len(names) > 1 else names[0]


def is_null(value: Any) -> bool:
    """Null, or text that stands for it: "", "null", "None"."""
    return value is None or (isinstance(value, str) and value.strip().casefold() in _NULL)


def optional_text(value: Any) -> str | None:
    """Text, or null, "", "null", "None" for none."""
    return None if is_null(value) else text(value)


def _whole_numbers(value: Any, separators: str = "") -> list[int]:
    """[1, 2], 1, "1, 2", "[1, 2]", "1，2", "1 2", and the same with other `separators`."""
    if isinstance(value, str):
        body = value.strip()
        if body[:1] + body[-1:] in ("[]", "()"):
            body = body[1:-1]
        value = [part for part in re.split(rf"[\s{_COMMAS}{separators}]+", body) if part]
    return [whole(item) for item in (value if isinstance(value, (list, tuple)) else [value])]


def epochs(value: Any) -> tuple[int, ...]:
    """Different epoch numbers in rising order."""
    numbers = sorted(set(_whole_numbers(value)))
    if numbers and not (numbers[0] >= 0 and numbers[-1] <= 1_000_000):
        raise refuse()
    return tuple(numbers)


def gpus(value: Any) -> tuple[int, ...]:
    """Different GPU ids in the order given; none is the CPU."""
    if isinstance(value, str) and not value.strip():
        raise refuse()
    ids = _whole_numbers(value)
    if any(not 0 <= gpu <= 1023 for gpu in ids):
        raise refuse()
    twice = [gpu for gpu, count in Counter(ids).items() if count > 1]
    if twice:
        raise refuse(f"names GPU {twice[0]} more than once")
    return tuple(ids)


def indices(value: Any) -> tuple[int, ...] | None:
    """Numbers from 0 in the order given; null where none is given."""
    if is_null(value):
        return None
    numbers = _whole_numbers(value)
    if any(number < 0 for number in numbers):
        raise refuse()
    return tuple(numbers)


def class_names(value: Any) -> tuple[str, ...] | None:
    """Different names from a list or from text with commas; null where none is given."""
    if is_null(value):
        return None
    if isinstance(value, str):
        value = _list_in(value)
    if not isinstance(value, (list, tuple)):
        raise refuse()
    names = [_class_name(item) for item in value]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise refuse(f"names {json.dumps(twice[0], ensure_ascii=False)} more than once")
    return tuple(names) or None


def _list_in(written: str) -> list[Any]:
    """The items of a list written as JSON, as Python or plainly with commas."""
    if len(written) > _LONGEST_LIST:
        raise refuse()
    if written.strip()[:1] == "[":
        for read in (json.loads, ast.literal_eval):
            try:
                return list(read(written.strip()))
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
        raise refuse()
    return re.split(f"[{_COMMAS}]", written)


def _class_name(item: Any) -> str:
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)
    if not isinstance(item, str) or not item.strip():
        raise refuse("holds something that is no name" if item != "" else "holds an empty name")
    name = item.strip()
    if name == "mAP":
        raise refuse('holds "mAP", which stands for the mean in the result files')
    try:
        name.encode()
    except UnicodeEncodeError:
        raise refuse("holds half a character") from None
    return name


def size(smallest: int, largest: int, multiple: int = 1) -> Kind:
    """Width and height in pixels: two numbers from a list or text (also "512x512"), or one for a square."""

    def parse(value: Any) -> tuple[int, int]:
        numbers = _whole_numbers(value, separators="x×*")
        numbers = numbers * 2 if len(numbers) == 1 and not isinstance(value, (list, tuple)) else numbers
        if len(numbers) != 2 or any(n < smallest or n > largest or n % multiple for n in numbers):
            raise refuse()
        return numbers[0], numbers[1]

    english = f"width and height, two whole numbers from {smallest} to {largest}"
    chinese = f"宽和高，{smallest} 到 {largest} 的两个整数"
    if multiple > 1:
        english, chinese = f"{english} that are multiples of {multiple}", f"{chinese}，且为 {multiple} 的倍数"
    return Kind(parse, english, chinese, schema=_NUMBERS_SCHEMA)


def optional_size(smallest: int, largest: int) -> Kind:
    """As `size`, or null."""
    return _or_null(size(smallest, largest))


def optional_one_of(*choices: str) -> Kind:
    """As `one_of`, or null."""
    return _or_null(one_of(*choices))


def _or_null(kind: Kind) -> Kind:
    assert kind.schema is not None
    return Kind(
        lambda value: None if is_null(value) else kind.parse(value),
        f"{kind.english}, or null",
        f"{kind.chinese}，或 null",
        schema={"anyOf": [*kind.schema["anyOf"], {"type": "null"}, {"enum": ["", "null", "none"]}]},
    )


def region(value: Any) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom as shares from 0 to 1, from a list or text with commas; null where none is given."""
    if is_null(value):
        return None
    if isinstance(value, str):
        value = [part for part in re.split(rf"[\s{_COMMAS}\[\]()]+", value) if part]
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise refuse()
    x1, y1, x2, y2 = (number(item) for item in value)
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise refuse()
    return x1, y1, x2, y2


def one_of(*choices: str) -> Kind:
    """One of some names, in capitals or small letters."""
    by_folded = {choice.casefold(): choice for choice in choices}

    def parse(value: Any) -> str:
        choice = by_folded.get(value.strip().casefold()) if isinstance(value, str) else None
        if choice is None:
            raise refuse()
        return choice

    pattern = rf"^\s*({_any_case(choices)})\s*$"
    return Kind(
        parse,
        f"one of {', '.join(choices)}",
        f"{'、'.join(choices)} 之一",
        schema={"anyOf": [{"enum": list(choices)}, {"type": "string", "pattern": pattern}]},
    )


def one_of_numbers(*choices: int) -> Kind:
    """One of some whole numbers."""

    def parse(value: Any) -> int:
        if whole(value) not in choices:
            raise refuse()
        return whole(value)

    listed = ", ".join(map(str, choices))
    schema = {"anyOf": [{"enum": list(choices)}, {"type": "string", "pattern": f"^{_WHOLE}$"}]}
    return Kind(parse, f"one of {listed}", f"{listed.replace(', ', '、')} 之一", schema=schema)


def _any_case(words: Sequence[str]) -> str:
    """A pattern of these words in any mixture of capitals and small letters."""
    return "|".join(
        "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else re.escape(c) for c in word) for word in words
    )


_WHOLE_OR_TEXT = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": f"^{_WHOLE}$"}]}
_NUMBERS_SCHEMA = {
    "anyOf": [{"type": "array", "items": _WHOLE_OR_TEXT}, {"type": "integer"}, {"type": "string"}]
}
_FLAG_SCHEMA = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {"type": "string", "pattern": rf"^\s*({_any_case(_TRUE + _FALSE)})\s*$"},
    ]
}
_NULL_SCHEMA = {"type": ["string", "null"]}
_NAMES_SCHEMA = {"anyOf": [{"type": "array", "items": {"type": ["string", "integer"]}}, _NULL_SCHEMA]}

Whole = Annotated[int, Kind(whole, "a whole number", "整数", text=_WHOLE)]
BatchSize = Annotated[
    int, Kind(whole, '"auto" or a whole number', '"auto" 或整数', text=rf"({_WHOLE}|\s*[Aa][Uu][Tt][Oo]\s*)")
]  # "auto" is taken out by the section
Number = Annotated[float, Kind(number, "a number", "数", text=_NUMBER)]
Flag = Annotated[bool, Kind(flag, "true or false", "true 或 false", schema=_FLAG_SCHEMA)]
OptionalFlag = Annotated[
    bool | None,
    Kind(
        optional_flag,
        "true, false or null",
        "true、false 或 null",
        schema={"anyOf": [*_FLAG_SCHEMA["anyOf"], _NULL_SCHEMA]},
    ),
]
Folder = Annotated[Path, Kind(path, "the path of a folder", "文件夹路径")]
FolderNames = Annotated[
    str | tuple[str, ...],
    Kind(
        folders,
        "the name of a folder, or a list of different ones",
        "文件夹名，或互不相同的文件夹名列表",
        schema={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    ),
]
OptionalFolderNames = Annotated[
    str | tuple[str, ...] | None,
    Kind(
        optional_folders,
        "the name of a folder, a list of different ones, or null for none",
        "文件夹名、互不相同的文件夹名列表，null 表示没有",
        schema={"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]},
    ),
]
OptionalFile = Annotated[
    str | None,
    Kind(
        optional_text,
        "the name of a file or folder, or null for none",
        "文件或文件夹名，null 表示没有",
        schema=_NULL_SCHEMA,
    ),
]
FormatNames = Annotated[
    str | tuple[str, ...],
    Kind(
        formats,
        f"auto, one of {', '.join(FORMATS)}, or a list of them",
        f"auto、{'、'.join(FORMATS)} 之一，或它们的列表",
        schema={
            "anyOf": [
                {"enum": ["auto", *FORMATS]},
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        },
    ),
]
Epochs = Annotated[
    tuple[int, ...],
    Kind(
        epochs,
        "epoch numbers from 0 to 1000000, as a list or as text with commas",
        "轮次编号（0 到 1000000），列表或用逗号分隔的文本",
        schema=_NUMBERS_SCHEMA,
    ),
]
Gpus = Annotated[
    tuple[int, ...],
    Kind(
        gpus,
        "a list of different GPU ids from 0 to 1023, [] for the CPU",
        "互不相同的 GPU 编号列表（0 到 1023），[] 表示 CPU",
        schema=_NUMBERS_SCHEMA,
    ),
]
Indices = Annotated[
    tuple[int, ...] | None,
    Kind(
        indices,
        "a list of numbers from 0, or null",
        "从 0 开始的编号列表，或 null",
        schema={"anyOf": [*_NUMBERS_SCHEMA["anyOf"], {"type": "null"}]},
    ),
]
OptionalRegion = Annotated[
    tuple[float, float, float, float] | None,
    Kind(
        region,
        "x1, y1, x2, y2, four numbers from 0 to 1 with x1 < x2 and y1 < y2, or null",
        "x1, y1, x2, y2，四个 0 到 1 的数，且 x1 < x2、y1 < y2，或 null",
        schema={"anyOf": [{"type": "array", "minItems": 4, "maxItems": 4}, _NULL_SCHEMA]},
    ),
]
ClassNames = Annotated[
    tuple[str, ...] | None,
    Kind(
        class_names,
        "a list of different names or text with commas, or null",
        "互不相同的名称列表或用逗号分隔的文本，或 null",
        schema=_NAMES_SCHEMA,
    ),
]
