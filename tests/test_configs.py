"""The files in configs/: examples that are accepted, schemas as the reader is, tables up to date."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.key_lookup import leaves
from common.config.reading import configuration, read_configuration
from common.config.sections import JobConfig
from common.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[1]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_configs", ROOT / "configs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _generator()
STEMS = {stem: cls for cls, stem in generate.CONFIGURATIONS.values()}
VALIDATORS = {cls: jsonschema.Draft202012Validator(generate.schema(cls)) for cls in STEMS.values()}


@pytest.mark.parametrize("kind", STEMS.values())
def test_every_task_has_syncbn_for_ranks_too_which_name_a_gpu_each(kind: type[JobConfig]) -> None:
    for asked in (True, False):
        values = {"log_dir": "out", "gpus": [], "model": {"syncbn": asked}}
        assert configuration(kind, values).whole_batch_norm == asked


@pytest.mark.parametrize(
    ("stem", "values", "message"),
    [
        ("image_classification", {"model": {"use_gn": True}}, "GroupNorm has taken BatchNorm's place"),
        ("image_classification", {"model": {"base_network": "vgg11"}}, "vgg11 has no BatchNorm unless"),
        ("reid", {"gpus": [0, 1], "train": {"mode": "imperative"}}, "needs train.mode hybrid"),
    ],
)
def test_syncbn_is_refused_where_there_is_nothing_to_synchronise(
    stem: str, values: dict[str, Any], message: str
) -> None:
    asked = {"log_dir": "out", **values, "model": {**values.get("model", {}), "syncbn": True}}
    with pytest.raises(ConfigurationError, match=rf"model\.syncbn.*{message}"):
        configuration(STEMS[stem], asked)
    # A neck or head of its own, or PyTorch, has something.
    other = {"engine": "torch"} if stem == "reid" else {}
    configuration(STEMS["reid" if stem != "reid" else stem], {**asked, **other})


def test_what_is_generated_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


# How many keys the guide's examples have; others came after it.
KEYS_OF_THE_GUIDE = {
    "detect_yolov3": 39,
    "detect_center_net": 47,
    "detect_ssd": 46,
    "image_classification": 50,
    "reid": 50,
    "landmark": 51,
}


@pytest.mark.parametrize("stem", STEMS)
def test_the_examples_are_accepted_and_mean_what_they_say(stem: str) -> None:
    path = ROOT / "configs" / f"{stem}.json"
    config = read_configuration(STEMS[stem], path)
    values = json.loads(path.read_text(encoding="utf-8"))
    named = 0
    for dotted in leaves(STEMS[stem]):
        section, _, name = dotted.rpartition(".")
        holder, held = (values.get(section, {}), getattr(config, section)) if section else (values, config)
        if name not in holder:
            continue
        named += 1
        got = getattr(held, name)
        if name == "lr_decay_epoch":
            assert got == tuple(int(epoch) for epoch in holder[name].split(","))
        else:
            assert json.loads(json.dumps(str(got) if isinstance(got, Path) else got)) == holder[name]
    assert named == KEYS_OF_THE_GUIDE[stem]


@pytest.mark.parametrize("stem", STEMS)
def test_the_schemas_accept_the_examples_and_refuse_unknown_keys(stem: str) -> None:
    schema = json.loads((ROOT / "configs" / f"{stem}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    example = json.loads((ROOT / "configs" / f"{stem}.json").read_text(encoding="utf-8"))
    jsonschema.validate(example, schema)
    without_log_dir: dict[str, Any] = {"train": {}}
    for broken in ({**example, "typo": 1}, {**example, "train": {"typo": 1}}, without_log_dir):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


NUMBERS = [0, 1, 2, 64, 100, 0.5, 1.0, True, False, "1", " 2.0", "0.5", "1e-2"]
WORDS: list[Any] = [
    None,
    "",
    "TRUE",
    "no",
    "null",
    "voc",
    "COCO",
    "adam",
    "Step",
    "a,b",
    "x.pkl",
    "resnet18_v1",
    {},
]
LISTS = ["25,50", "512x512", [], [0], ["1", 2], [512, 512], ["a", 3]]


@settings(max_examples=400, deadline=None)
@given(stem=st.sampled_from(list(STEMS)), value=st.sampled_from([*NUMBERS, *WORDS, *LISTS]), data=st.data())
def test_what_the_reader_accepts_the_schema_accepts(stem: str, value: Any, data: st.DataObject) -> None:
    cls = STEMS[stem]
    path = data.draw(st.sampled_from(list(leaves(cls))))
    section, _, name = path.rpartition(".")
    values: dict[str, Any] = {"log_dir": "/out", **({section: {name: value}} if section else {name: value})}
    try:
        configuration(cls, values)
    except ConfigurationError:
        return
    VALIDATORS[cls].validate(values)


@pytest.mark.parametrize("cls", STEMS.values())
def test_every_key_is_described_in_both_languages(cls: type[JobConfig]) -> None:
    for path, field in leaves(cls).items():
        extra = field.json_schema_extra
        assert field.description, path
        assert isinstance(extra, dict), path
        assert any("\u4e00" <= letter <= "\u9fff" for letter in str(extra["zh"])), path
    english, chinese = generate.table(cls), generate.table(cls, chinese=True)
    assert english.count("\n") == chinese.count("\n") == len(leaves(cls)) + 2
    assert "| log_dir | required |" in english
    assert "| log_dir | 必填 |" in chinese


@pytest.mark.parametrize(
    ("chinese", "alone"), [(False, "| Classification alone. "), (True, "| 仅用于分类。")]
)
def test_one_table_serves_classification_and_reid(chinese: bool, alone: str) -> None:
    classification, reid = (
        generate.table(generate.CONFIGURATIONS[name][0], chinese).splitlines()
        for name in ("classification", "reid")
    )
    assert [row for row in classification if alone not in row] == reid


def test_an_outdated_table_is_found_and_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configs").mkdir()
    for schema in (ROOT / "configs").glob("*.schema.json"):
        shutil.copy(schema, tmp_path / "configs")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "keys.md"
    page.write_text("# Top\n<!-- keys:reid -->\nold\n<!-- /keys -->\nend\n", encoding="utf-8")
    (tmp_path / "docs" / "keys_zh.md").write_text("没有表格\n", encoding="utf-8")
    assert generate.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out == "docs/keys.md: outdated; run python3 configs/generate.py\n"
    assert "\nold\n" in page.read_text(encoding="utf-8")
    assert generate.main([], tmp_path) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Top\n<!-- keys:reid -->\n| key |")
    assert text.endswith("|\n<!-- /keys -->\nend\n")
    assert generate.main(["--check"], tmp_path) == 0
    (tmp_path / "configs" / "reid.schema.json").write_text("{}", encoding="utf-8")
    assert generate.main(["--check"], tmp_path) == 1


def test_a_table_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="keys:rcnn is not one of yolov3"):
        generate.rewritten("<!-- keys:rcnn -->\n<!-- /keys -->", False)
