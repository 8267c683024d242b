"""What the repository promises about itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.config.reading import read_configuration
from detect.config import YOLOv3Config

ROOT = Path(__file__).resolve().parents[1]
TOP = ("common", "detect", "classification", "reid", "landmark")
# The rooms of common/ and the modules beside them: each imports those of the lines above its own alone.
ROOMS = (
    ("errors", "files", "language"),
    ("container",),
    ("ranks",),
    ("config", "reporting", "images", "processes"),
    ("steps",),
    ("engine", "data"),
    ("loading", "evaluation"),
    ("predictor",),
    ("evaluator",),
    ("trained",),
    ("recipe",),
    ("task",),
    ("networks", "training"),
    ("set_folders",),
    ("datasets",),
    ("trial", "same_sets"),
    ("prepare",),
    ("commands",),
    ("check", "models", "convert", "inputs", "labelled_set"),
    ("outputs",),
    ("export", "advice"),
    ("predict", "evaluate", "job_report", "suggest"),
    ("job_state",),
    ("job_training", "job_results", "job_advice"),
    ("job_work",),
    ("job",),
)


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


PAGES = [
    "README",
    *sorted(f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md") if "_zh" not in path.stem),
]


@pytest.mark.parametrize("name", [f"{page}{language}.md" for page in PAGES for language in ("", "_zh")])
def test_every_file_and_make_target_that_a_page_names_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    folders = "configs|common|detect|classification|reid|landmark|tests|benchmarks|docs"
    named = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]+\w)", text)
    assert not [path for path in named if not (ROOT / path).exists()]
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_sections_and_commands(page: str) -> None:
    english, chinese = ((ROOT / f"{page}{language}.md").read_text() for language in ("", "_zh"))

    def blocks(text: str) -> list[str]:
        return [re.sub(r"\s+", " ", block) for block in re.findall(r"```\w*\n(.*?)```", text, re.S)]

    assert blocks(english) == blocks(chinese)
    assert [len(h) for h in re.findall(r"^(#+) ", english, re.M)] == [
        len(h) for h in re.findall(r"^(#+) ", chinese, re.M)
    ]


def test_the_lock_pins_every_package_with_hashes() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-onnx.lock"):
        entries = [
            line
            for line in (ROOT / name).read_text().splitlines()
            if line and not line.startswith((" ", "#"))
        ]
        assert len(entries) > 20
        assert all("==" in entry for entry in entries)
        assert not re.search(r"https?://", (ROOT / name).read_text())


def _imported(path: Path) -> set[str]:
    """Names of this project's modules that a file imports, anywhere in it, those for types alone included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in TOP}


def test_task_folders_do_not_import_each_other() -> None:
    for folder in TOP:
        for path in (ROOT / folder).rglob("*.py"):
            for name in _imported(path):
                other = name.partition(".")[0]
                allowed = other in (folder, "common") or (folder, other) == ("reid", "classification")
                assert allowed, f"{path} imports {name}"


def test_rooms_import_what_lies_below_them() -> None:
    place = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
    rooms = {path.stem for path in (ROOT / "common").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == set(place)
    for path in (ROOT / "common").rglob("*.py"):
        room = path.relative_to(ROOT / "common").parts[0].removesuffix(".py")
        for name in _imported(path) - {"common.__version__"}:
            other = name.split(".")[1]
            allowed = room == other or room == "__init__" or place[other] < place[room]
            assert allowed, f"{path} imports {name}"


@pytest.mark.parametrize("language", ["", "_zh"])
def test_the_page_on_design_draws_the_rooms_as_they_are(language: str) -> None:
    page = (ROOT / f"docs/design{language}.md").read_text()
    (drawing,) = re.findall(r"```\n(errors.*?)```", page, re.S)
    levels = [tuple(level.replace(",", " ").split()) for level in drawing.split("→")]
    assert levels == [tuple(level) for level in ROOMS]
    folders = {path.name for path in (ROOT / "common").iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.M)) >= folders


def _project_trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in TOP:
        for path in (ROOT / folder).rglob("*.py"):
            yield path, ast.parse(path.read_text())


def test_what_others_keep_to_themselves_is_used_by_one_module() -> None:
    for path, tree in _project_trees():
        if path in (ROOT / "common/engine/mxnet_internals.py", ROOT / "common/engine/torch/lists.py"):
            continue
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        own = {node.attr for node in attributes if ast.unparse(node.value) in ("self", "super()")}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in attributes:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            allowed = node.attr in own or ast.unparse(node) == "os._exit"
            assert allowed or not private, f"{path}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if re.match("_[^_]", name)], f"{path}:{node.lineno}"


def test_tests_import_helpers_and_no_other_test_and_nothing_private() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not re.match(r"tests\.(?!helpers)", node.module), f"{path}:{node.lineno}"
                private = [alias.name for alias in node.names if re.match("_[^_]", alias.name)]
                assert not private, f"{path}:{node.lineno}: {private}"


def test_arrays_of_a_device_stay_within_the_engine() -> None:
    members = ("asnumpy", "asscalar", "list_data", "list_grad", "set_data", "wait_to_read")
    for path, tree in _project_trees():
        if path.is_relative_to(ROOT / "common" / "engine"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found = node.attr in members or ast.unparse(node) in ("mx.nd", "mxnet.nd")
                assert not found, f"{path}:{node.lineno}: {ast.unparse(node)}"


def imported_with(code: str, names: Sequence[str]) -> list[str]:
    """Which modules of `names` are there when a fresh interpreter has run `code`."""
    code += f"\nimport sys\nprint(*[name for name in {tuple(names)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_pollers_do_not_wait_for_the_import_of_what_reads_images() -> None:
    later = ("cv2", "common.datasets", "common.job_work", "mxnet")
    assert imported_with("import common.job, detect.config", later) == []
    assert imported_with("import common.job_work", later) == list(later[:3])


def test_light_modules_do_not_import_the_framework() -> None:
    code = (
        "import common.config.command_line, common.config.reading, common.loading.loader, common.data.samples\n"
        "import common.processes.pool, common.reporting.server_process, common.job, common.job_work\n"
        "import common.training.estimator, common.training.hooks, common.training.resume\n"
        "import detect.config, detect.transforms, detect.annotations, detect.metric, detect.results\n"
    )
    assert imported_with(code, ("mxnet", "gluoncv")) == []
