"""run.json says what a job was made of, and nothing that is secret."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.reporting.provenance import versions, without_secrets, write_run
from common.reporting.warnings import forget, told


def test_what_is_secret_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUALTL_TOKEN", "geheim")
    monkeypatch.setattr(
        sys, "orig_argv", ["python3", "x.py", "--set", "db.password=geheim2", "--load=s3://me:key@h/x"]
    )
    configuration = {
        "train": {"lr": 0.1, "api_key": "abc", "secrets": ["a", "b"]},
        "dataset": {"data_root": "https://user:pass@host/data", "note": "is geheim"},
    }
    write_run(tmp_path, configuration, {"train": {"samples": 3}}, {"gpus": []})
    text = (tmp_path / "run.json").read_text()
    written = json.loads(text)
    for secret in ("geheim", "abc", "user:pass", "me:key"):
        assert secret not in text
    assert written["configuration"]["train"]["lr"] == 0.1
    assert written["configuration"]["dataset"]["data_root"] == "https://(left out)@host/data"
    assert written["command"][-1] == "--load=s3://(left out)@h/x"
    assert written["data"] == {"train": {"samples": 3}}
    assert written["device"]["processors"] >= 1
    assert without_secrets({"password": None, "tokens": 3}) == {"password": None, "tokens": "(left out)"}


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert found["python"] == sys.version.split()[0]
    assert found["numpy"] == __import__("numpy").__version__


def test_one_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    (tmp_path / "run.json" / "x").touch()
    write_run(tmp_path, {}, {}, {})
    assert any("run.json cannot be written" in warning for warning in told())
    forget()
