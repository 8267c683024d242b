"""What the repository promises about itself."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from common.config import read_configuration
from detect.config import YOLOv3Config

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_configuration_is_valid_and_its_data_is_there() -> None:
    config = read_configuration(YOLOv3Config, ROOT / "configs" / "demo.json")
    root = ROOT / config.dataset.data_root
    for folder in (config.dataset.train_dir, config.dataset.valid_dir):
        assert folder is not None
        images = list((root / folder).glob("*.jpg"))
        assert len(images) >= 40
        assert all(image.with_suffix(".txt").is_file() for image in images)
    assert "MIT License" in (root / "LICENSE").read_text()


def test_the_shipped_data_is_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "tests" / "data").rglob("*") if path.is_file())
    assert size < 5_000_000


@pytest.mark.parametrize("name", ["README.md", "README_zh.md", "docs/platform.md", "docs/platform_zh.md"])
def test_every_file_that_a_page_names_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(
        re.findall(
            r"`((?:configs|common|detect|classification|reid|landmark|tests|benchmarks|docs)/[\w./-]+)`", text
        )
    )
    named |= set(re.findall(r"\]\(([\w./-]+)\)", text))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_every_make_target_that_the_readme_names_exists(name: str) -> None:
    targets = set(re.findall(r"make ([a-z-]+)", (ROOT / name).read_text()))
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test"}
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]


@pytest.mark.parametrize("page", ["README", "docs/platform"])
def test_both_languages_have_the_same_sections_and_commands(page: str) -> None:
    english, chinese = ((ROOT / f"{page}{language}.md").read_text() for language in ("", "_zh"))

    def blocks(text: str) -> list[str]:
        return [re.sub(r"\s+", " ", block) for block in re.findall(r"```\w*\n(.*?)```", text, re.S)]

    assert blocks(english) == blocks(chinese)
    assert [len(h) for h in re.findall(r"^(#+) ", english, re.M)] == [
        len(h) for h in re.findall(r"^(#+) ", chinese, re.M)
    ]


def test_the_lock_pins_every_package_with_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        entries = [
            line
            for line in (ROOT / name).read_text().splitlines()
            if line and not line.startswith((" ", "#"))
        ]
        assert len(entries) > 20
        assert all("==" in entry for entry in entries)
        assert not re.search(r"https?://", (ROOT / name).read_text())


def test_task_folders_do_not_import_each_other() -> None:
    folders = ("detect", "classification", "reid", "landmark")
    for folder in (*folders, "common"):
        for path in (ROOT / folder).glob("*.py"):
            for other in folders:
                allowed = other == folder or (folder, other) == ("reid", "classification")
                imported = re.search(rf"^\s*(from|import) {other}\b", path.read_text(), re.M)
                assert allowed or not imported, f"{path} imports {other}"


def test_light_modules_do_not_import_the_framework() -> None:
    code = (
        "import sys\n"
        "import common.cli, common.config, common.loader, common.samples, common.workers, common.server, common.job\n"
        "import detect.config, detect.transforms, detect.annotations, detect.metric, detect.results\n"
        "print([name for name in ('mxnet', 'gluoncv') if name in sys.modules])"
    )
    done = subprocess.run(
        [str(Path(__import__("sys").executable)), "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(done.stdout.replace("'", '"')) == [], done.stderr
