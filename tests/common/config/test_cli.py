"""The command line of the fit scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.command_line import Options, parse
from common.config.key_lookup import leaves
from detect.config import YOLOv3Config


def parsed(*argv: str) -> Options:
    return parse(YOLOv3Config, argv, "Train a detector.")


def test_a_platform_names_the_configuration_alone() -> None:
    assert parsed("--config", "job.json") == Options(Path("job.json"), None, (), 8888, 30.0)


def test_everything_can_be_given() -> None:
    argv = [
        "--config=job.json",
        "--load",
        "best.pkl",
        "--set",
        "train.lr=1",
        "--set",
        "gpus=[]",
        "--port",
        "9000",
        "--linger",
        "0.5",
    ]
    assert parsed(*argv) == Options(Path("job.json"), Path("best.pkl"), ("train.lr=1", "gpus=[]"), 9000, 0.5)


def test_an_empty_load_is_none() -> None:
    assert parsed("--config", "job.json", "--load", "").load is None


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "--config"),
        (["--config", ""], "path of a JSON file"),
        (["--config"], "expected one argument"),
        (["--conf", "job.json"], "--conf job.json"),
        (["--config", "a", "--port", "0"], "'0' is not a port"),
        (["--config", "a", "--port", "65536"], "from 1 to 65535"),
        (["--config", "a", "--port", "²"], "is not a port"),
        (["--config", "a", "--linger", "nan"], "'nan' is not a time"),
        (["--config", "a", "--linger", "-1"], "is not a time"),
        (["--config", "a", "--epoch", "5"], "--epoch"),
        (["--config", "a", "--epochs"], "--epochs: expected one argument"),
        (["--config", "a", "--interval", "5", "--nonsense"], "--nonsense"),
        (["--config", "a", "--threads", "0"], "'0' is not a number of threads"),
        (["--config", "a", "--log-format", "xml"], "--log-format"),
        (["--config", "a", "--host", " "], "an empty name"),
        (["--config", "a", "more\nlines"], "more"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*argv)
    assert caught.value.code == 2
    output = capsys.readouterr().err
    assert told in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--port", "from 1 to 65535"),
        ("--threads", "from 1 to 4096"),
        ("--linger", "from 0 to 86400"),
        ("--log-format", "choose from"),
        ("--nonsense", "--nonsense"),
    ],
)
def test_a_very_long_value_is_told_in_short_with_what_is_allowed(
    flag: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed("--config", "a", flag, "9" * 5000)
    message = capsys.readouterr().err
    assert told in message
    assert len(message) < 600


def test_flags_stand_for_keys() -> None:
    argv = [
        "--train.epochs",
        "10",
        "--batch-size=4",
        "--config",
        "a",
        "--gpus",
        "[]",
        "--early_stop_patience",
        "-1",
    ]
    assert parsed(*argv).overrides == (
        "train.epochs=10",
        "train.batch_size=4",
        "gpus=[]",
        "train.early_stop_patience=-1",
    )
    assert parsed("--log_dir", "/out", "--set", "train.lr=1") == Options(
        None, overrides=("train.lr=1", "log_dir=/out")
    )


def test_a_flag_that_may_be_two_keys_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    class Twice(YOLOv3Config):
        class Valid(YOLOv3Config.model_fields["valid"].annotation):  # type: ignore[name-defined,misc]
            epochs: int = 1

        valid: Valid

    with pytest.raises(SystemExit):
        parse(Twice, ["--epochs", "1"], "")
    assert "--epochs may be --train.epochs or --valid.epochs: write which" in capsys.readouterr().err


def test_the_value_of_an_option_is_never_a_flag() -> None:
    assert parsed("--config", "--epochs", "--load", "--lr", "--lr", "1") == Options(
        Path("--epochs"), Path("--lr"), ("train.lr=1",)
    )


def test_help_shows_an_example_and_every_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["detect/fit_yolov3.py"])
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "python3 detect/fit_yolov3.py --config job.json --set train.epochs=5" in output
    words = set(output.split())
    assert {path.rpartition(".")[2] for path in leaves(YOLOv3Config)} <= words
    assert max(map(len, output.splitlines())) <= 110
