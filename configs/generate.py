"""Write what follows from the code: JSON Schemas, and the tables of keys and pretrained files in the documents.

    python3 configs/generate.py           # rewrite what is outdated
    python3 configs/generate.py --check   # say what is outdated; exit status 1 if anything is

A table stands between `<!-- keys:NAME -->` and `<!-- /keys -->`, or `<!-- pretrained:NAME -->` and
`<!-- /pretrained -->`, on any page of docs/; pages whose names end in `_zh` are Chinese.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pydantic.fields import FieldInfo  # noqa: E402

from classification.config import ClassificationConfig  # noqa: E402
from common.config.key_lookup import allowed, leaves, sections  # noqa: E402
from common.config.sections import JobConfig  # noqa: E402
from common.files import replacing  # noqa: E402
from common.networks.pretrained import published_files  # noqa: E402
from detect.config import CenterNetConfig, SSDConfig, YOLOv3Config  # noqa: E402
from landmark.config import LandmarkConfig  # noqa: E402
from reid.config import ReIDConfig  # noqa: E402

#: Name of a table -> configuration class, stem of its files in configs/.
CONFIGURATIONS: dict[str, tuple[type[JobConfig], str]] = {
    "yolov3": (YOLOv3Config, "detect_yolov3"),
    "center_net": (CenterNetConfig, "detect_center_net"),
    "ssd": (SSDConfig, "detect_ssd"),
    "classification": (ClassificationConfig, "image_classification"),
    "reid": (ReIDConfig, "reid"),
    "landmark": (LandmarkConfig, "landmark"),
}
_TABLE = re.compile(r"(<!-- keys:(\w+) -->\n).*?(<!-- /keys -->)", re.DOTALL)
_PRETRAINED = re.compile(r"(<!-- pretrained:(\w+) -->\n).*?(<!-- /pretrained -->)", re.DOTALL)
#: Name of a table of pretrained files -> how their names begin.
_GROUPS = {"detectors": ("yolo3_", "center_net_", "ssd_"), "imagenet": ()}


def schema(config_class: type[JobConfig]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration file, text forms of values included, no references."""
    made = config_class.model_json_schema()
    definitions = made.pop("$defs")
    for name in sections(config_class):
        reference = made["properties"][name].pop("$ref")
        made["properties"][name] |= definitions[reference.rpartition("/")[2]]
    made["properties"] = {"$schema": {"type": "string"}} | made["properties"]
    for path in leaves(config_class):
        section, _, name = path.rpartition(".")
        entry = (made["properties"][section] if section else made)["properties"][name]
        entry.pop("title", None)
        entry.pop("zh", None)
        entry.pop("changeable", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _default(field: FieldInfo, chinese: bool) -> str:
    if field.is_required():
        return "必填" if chinese else "required"
    value = field.get_default(call_default_factory=True)
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}`"


def table(config_class: type[JobConfig], chinese: bool = False) -> str:
    """A Markdown table of all keys: path, default, what is allowed, meaning."""
    head = ("参数名", "默认值", "取值", "说明") if chinese else ("key", "default", "allowed", "meaning")
    rows = [head, ("---",) * 4]
    for path, field in leaves(config_class).items():
        extra = field.json_schema_extra
        meaning = extra["zh"] if chinese and isinstance(extra, dict) else field.description
        rows.append((path, _default(field, chinese), allowed(field, chinese), str(meaning)))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def rewritten(page: str, chinese: bool) -> str:
    """The text of a page with its tables as they should be; ValueError for a table of an unknown name."""

    def replaced(match: re.Match[str]) -> str:
        if match[2] not in CONFIGURATIONS:
            raise ValueError(f"keys:{match[2]} is not one of {', '.join(CONFIGURATIONS)}")
        return f"{match[1]}{table(CONFIGURATIONS[match[2]][0], chinese)}{match[3]}"

    return _PRETRAINED.sub(
        lambda match: f"{match[1]}{pretrained_table(match[2], chinese)}{match[3]}",
        _TABLE.sub(replaced, page),
    )


def pretrained_table(group: str, chinese: bool = False) -> str:
    """A Markdown table of the files in `configs/pretrained.csv`: exact name, size, what is published of them."""
    detectors = _GROUPS["detectors"]
    head = (
        ("文件", "约 MB", "公布的指标", "张/秒") if chinese else ("file", "about MB", "published", "images/s")
    )
    rows = [head, ("---",) * 4]
    for row in published_files():
        if row["name"].startswith(detectors) == bool(_GROUPS[group]):
            figures = (row["figure"] or "–", row["images_per_second"] or "–")
            name = f"{row['name']}-{row['sha1'][:8]}.params"
            rows.append((f"`{name}`", f"{float(row['megabytes']):.0f}", *figures))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def generated(root: Path) -> dict[Path, str]:
    """File -> the content that it should have."""
    files = {
        root / "configs" / f"{stem}.schema.json": json.dumps(schema(cls), ensure_ascii=False, indent=1) + "\n"
        for cls, stem in CONFIGURATIONS.values()
    }
    for page in sorted((root / "docs").glob("*.md")):
        files[page] = rewritten(page.read_text(encoding="utf-8"), chinese=page.stem.endswith("_zh"))
    return files


def main(argv: list[str], root: Path = ROOT) -> int:
    """Rewrite or, with --check, only name outdated files; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Write JSON Schemas and the tables of the documents from the configuration classes."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if something is outdated"
    )
    check = parser.parse_args(argv).check
    files = generated(root)
    outdated = [
        f for f, content in files.items() if not f.is_file() or f.read_text(encoding="utf-8") != content
    ]
    for file in outdated:
        if not check:
            with replacing(file, "w") as opened:
                opened.write(files[file])
        print(
            f"{file.relative_to(root)}: {'outdated; run python3 configs/generate.py' if check else 'written'}"
        )
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
