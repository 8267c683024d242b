"""run.json: what a job was made of, so that it can be told later where a model comes from.

==================== ================================================================================
configuration        complete, as it was used: with every default, and the network of a checkpoint
command              the command line, word by word
versions             of this software, Python, and what computes, reads and exports
data                 {set: {"samples", "fingerprint"}}, and `images`, the fingerprint of the images trained on
device               {"engine", "gpus", "processor", "processors", "threads", "precision"}
host, started        where, and when in seconds since 1970
==================== ================================================================================

What is secret is left out: values of keys that are named as secrets are, passwords within addresses, and the token of
the progress server.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

from common import __version__
from common.files import write_json
from common.reporting.server_process import TOKEN
from common.reporting.warnings import warn

FILE = "run.json"

_PACKAGES = (
    "gluoncv",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "torch",
)
_SECRET = re.compile(r"token|secret|passw|credential|api_?key|access_?key", re.I)
_GIVEN = re.compile(r"(?P<key>[\w.-]*(?:token|secret|passw|credential|api_?key|access_?key)[\w.-]*=).+", re.I)
_IN_ADDRESS = re.compile(r"(?P<scheme>\w+://)[^/@\s]+@")
_LEFT_OUT = "(left out)"


def write_run(
    log_dir: Path, configuration: dict[str, Any], data: dict[str, Any], device: dict[str, Any]
) -> None:
    """Write run.json. One that cannot be written is a warning: it never decides how a job ends."""
    document = {
        "configuration": configuration,
        "command": list(sys.orig_argv),
        "versions": versions(),
        "data": data,
        "device": {
            **device,
            "processor": _processor(),
            "processors": len(os.sched_getaffinity(0)),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "host": socket.gethostname(),
        "started": time.time(),
    }
    try:
        write_json(log_dir / FILE, without_secrets(document))
    except (OSError, ValueError) as error:
        warn(f"{FILE} cannot be written: {getattr(error, 'strerror', None) or error}")


def versions() -> dict[str, str]:
    """Names and versions of what is installed here and has a part in a job."""
    installed = {"visualtl": __version__, "python": platform.python_version(), "system": platform.platform()}
    mxnet = sys.modules.get("mxnet")
    if mxnet is not None:
        installed["mxnet"] = str(getattr(mxnet, "__version__", "unknown"))
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def without_secrets(value: Any, key: str = "") -> Any:
    """`value`, plain data, with what is secret in it replaced."""
    if isinstance(value, dict):
        return {name: without_secrets(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets(item, key) for item in value]
    if value is not None and _SECRET.search(key):
        return _LEFT_OUT
    if not isinstance(value, str):
        return value
    token = os.environ.get(TOKEN)
    if token:
        value = value.replace(token, _LEFT_OUT)
    value = _IN_ADDRESS.sub(rf"\g<scheme>{_LEFT_OUT}@", value)
    return _GIVEN.sub(rf"\g<key>{_LEFT_OUT}", value)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
