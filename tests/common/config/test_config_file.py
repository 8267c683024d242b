"""A configuration file, whatever is in it, gives a configuration or errors that a person can use."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classification.config import ClassificationConfig
from common.config.key_lookup import leaves
from common.config.network_sections import NetworkConfig
from common.config.reading import configuration, read_configuration
from common.config.sections import JobConfig
from common.errors import ConfigurationError
from detect.config import CenterNetConfig, YOLOv3Config


def written(folder: Path, content: str | bytes) -> Path:
    """A file with this content."""
    path = folder / "job.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_overrides_take_the_place_of_single_keys(tmp_path: Path) -> None:
    path = written(tmp_path, '{"log_dir": "/out", "train": {"epochs": 3, "lr": 0.5}}')
    overrides = [
        "train.epochs=5",
        "gpus=[]",
        "dataset.train_dir=2021",
        "dataset.valid_dir=null",
        "model.amp=true",
    ]
    config = read_configuration(YOLOv3Config, path, overrides)
    assert (config.train.epochs, config.train.lr, config.gpus) == (5, 0.5, ())
    assert (config.dataset.train_dir, config.dataset.valid_dir, config.model.amp) == ("2021", None, True)


def test_wrong_overrides_are_told_with_the_errors_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '{"log_dir": "/out", "train": {"epochs": 0}}')
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(YOLOv3Config, path, ["train.lr", "=3", "gpus.x=1", "train.epoch=5", "train.wd=-1"])
    lines = str(caught.value).split("\n")
    assert [line.split(":")[0] for line in lines] == [
        *("--set train.lr", "--set =3", "train.epoch", "gpus", "train.epochs", "train.wd")
    ]


def test_an_override_inside_a_value_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, '{"log_dir": "/out", "gpus": []}')
    with pytest.raises(
        ConfigurationError, match=r"^--set gpus\.x=1: gpus is not a section of the configuration"
    ):
        read_configuration(YOLOv3Config, path, ["gpus.x=1"])


def test_sections_without_effect_are_not_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path, '{"log_dir": "/out", "model": {"base_network": "of old", "unknown": 1}}')
    config = read_configuration(YOLOv3Config, path, ignored=("model",))
    assert config.model.base_network == "darknet53"
    with pytest.raises(ConfigurationError):
        read_configuration(YOLOv3Config, path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"train": {\n "epochs": 3,}}', ":2:14: this is not JSON"),
        ("", "the file is empty"),
        ("[1]", "it must hold a JSON object"),
        ("nul", ":1:1: this is not JSON"),
        (b'{"log_dir":\n "\xff"}', ":2: byte 0xff is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"log_dir": "a", "log_dir": "b"}', "log_dir: this key stands in the file more than once"),
        (
            '{"log_dir": "a", "train": {"lr": 1, "lr": 2}}',
            "train.lr: this key stands in the file more than once",
        ),
        ('{"log_dir": "a", "train": {"epochs": ' + "9" * 5000 + "}}", "train.epochs: "),
    ],
)
def test_a_file_that_is_no_configuration_says_where_it_is_wrong(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(YOLOv3Config, written(tmp_path, content))
    assert told in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(ConfigurationError) as caught:
            read_configuration(YOLOv3Config, path)
        assert "\n" not in str(caught.value)


def test_byte_order_mark_and_schema_are_no_obstacle(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + '{"$schema": "x.json", "log_dir": "/输出"}'.encode())
    assert read_configuration(YOLOv3Config, path).log_dir == Path("/输出")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1", "true", "[]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS: dict[type[JobConfig], list[str]] = {
    cls: [*leaves(cls), "train", "model", "typo", "train.typo"] for cls in (CenterNetConfig, NetworkConfig)
}


@settings(max_examples=300, deadline=None)
@given(
    cls=st.sampled_from(list(KEYS)),
    data=st.data(),
)
def test_any_json_gives_a_configuration_or_lines_that_name_keys(
    cls: type[JobConfig], data: st.DataObject
) -> None:
    values: dict[str, Any] = {"log_dir": "/out"}
    for path, value in data.draw(st.dictionaries(st.sampled_from(KEYS[cls]), JSON, max_size=6)).items():
        section, _, name = path.rpartition(".")
        holder = values.setdefault(section, {}) if section else values
        if isinstance(holder, dict):
            holder[name] = value
    try:
        config = configuration(cls, values)
    except ConfigurationError as error:
        told = str(error)
    else:
        assert configuration(cls, config.model_dump(mode="json", exclude_unset=True)) == config
        return
    lines = told.split("\n")
    assert len(told.splitlines()) == len(lines) == len(set(lines))
    for line in lines:
        assert line.isprintable()
        assert line.split(":")[0].split(".")[0] in {*values, "gpus"}


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_file_gives_a_configuration_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(YOLOv3Config, path)
    assert "any.json" in str(caught.value) or "log_dir: missing" in str(caught.value)


def refused(path: Path, *overrides: str) -> ConfigurationError:
    """The error of a configuration that is refused within a second or so."""
    began = time.process_time()
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(ClassificationConfig, path, overrides)
    assert time.process_time() - began < 3
    for line in str(caught.value).split("\n"):
        assert line.isprintable()
        assert len(line) < 500 + len(str(path))
    return caught.value


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "sparse"])
def test_what_is_no_file_or_endless_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "job.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    reason = "bytes are more than" if kind == "sparse" else "not a regular file"
    assert reason in str(refused(path))


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    # That is how Kubernetes lays out a ConfigMap.
    written(tmp_path, '{"log_dir": "/out"}').rename(tmp_path / "data")
    (tmp_path / "job.json").symlink_to("data")
    assert read_configuration(ClassificationConfig, tmp_path / "job.json").log_dir == Path("/out")


@pytest.mark.parametrize(
    "value",
    [
        *(
            "1" * 60_000 + "x",
            "1." * 30_000,
            " " * 100_000 + "x",
            "+" * 100_000,
            "1" * 100_000 + "e" * 100_000,
        ),
        *(("1" * 50_000 + ".") * 2, "[" * 100_000, "-" * 100_000 + "1", "," * 1_000_000, "[1," * 100_000),
    ],
    ids=lambda value: f"{value[:5]}",
)
@pytest.mark.parametrize(
    "key", ["train.lr", "train.epochs", "train.lr_decay_epoch", "train.mixup", "gpus", "train.optimizer"]
)
def test_a_long_text_that_is_no_value_is_refused_at_once(tmp_path: Path, key: str, value: str) -> None:
    section, _, name = key.rpartition(".")
    values: dict[str, Any] = {"log_dir": "/out"}
    (values.setdefault(section, {}) if section else values)[name] = value
    try:
        assert f"{key}: " in str(refused(written(tmp_path, json.dumps(values))))
    except pytest.fail.Exception:  # commas alone are a list of nothing
        assert value.strip(", ") == ""


@pytest.mark.parametrize("opening", ["[", "(", "-", "not ", "~", "1+", "['a',", '["a" ', "lambda:", "a."])
def test_a_list_of_names_of_any_depth_is_refused_at_once(tmp_path: Path, opening: str) -> None:
    for count in (2_000, 1_000_000 // len(opening)):
        values = {"log_dir": "/out", "dataset": {"classes": "[" + opening * count + "]"}}
        with pytest.raises(ConfigurationError, match=r"dataset\.classes: "):
            read_configuration(YOLOv3Config, written(tmp_path, json.dumps(values)))


def test_unknown_keys_without_end_are_told_in_short(tmp_path: Path) -> None:
    values = {"log_dir": "/out", "k" * 1_000_000: 1, "train": {f"key{i}": i for i in range(50_000)}}
    told = str(refused(written(tmp_path, json.dumps(values)))).split("\n")
    assert len(told) == 51
    assert told[-1].startswith("train.key49: this key and 49950 more")
    twice = '{"log_dir": "/out", ' + ", ".join(f'"a{i}": 1, "a{i}": 2' for i in range(2000)) + "}"
    assert len(str(refused(written(tmp_path, twice))).split("\n")) <= 101


def test_a_failure_belongs_to_the_folder_that_the_whole_configuration_names(tmp_path: Path) -> None:
    path = written(tmp_path, '{"log_dir": "/a", "train": {"lr": "fast"}}')
    assert refused(path).log_dir == Path("/a")
    assert refused(path, "log_dir=/b").log_dir == Path("/b")
    assert refused(path, "log_dir=~/b").log_dir == Path.home() / "b"
    for value in ('"a\\u0000b"', '"\\ud800"', "3", '""', '"~no such user/x"', "null"):
        assert refused(written(tmp_path, f'{{"log_dir": {value}, "train": {{"lr": 1}}}}')).log_dir is None
    assert refused(written(tmp_path, '{"log_dir": "/a", "log_dir": "/b"}')).log_dir is None
    assert refused(written(tmp_path, "{")).log_dir is None


def test_a_path_of_the_home_folder_is_one_wherever_it_stands(tmp_path: Path) -> None:
    values = {"log_dir": "~/out", "dataset": {"data_root": "~/data"}, "train": {"teacher": "~/a.pkl"}}
    config = read_configuration(ClassificationConfig, written(tmp_path, json.dumps(values)))
    home = Path.home()
    assert (config.log_dir, config.dataset.data_root) == (home / "out", home / "data")
    assert config.train.teacher == str(home / "a.pkl")
