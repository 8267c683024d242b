"""Holds manifests for Kubeflow against the schemas of its Python packages: prints what these do not know.

    .venv-oracles/bin/python tests/oracles/manifests.py FILE...

A line for each field that is lost when a manifest passes through the models, or the reason why it does not.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    for name in sys.argv[1:]:
        for document in yaml.safe_load_all(Path(name).read_text()):
            if document["kind"] in KINDS:
                for line in KINDS[document["kind"]](document):
                    print(f"{document['kind']}: {line}")


def of_trainer(document: dict[str, Any]) -> Iterator[str]:
    """A TrainJob, by the models of kubeflow-trainer-api."""
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    try:
        known = TrainerV1alpha1TrainJob.from_dict(document)
    except ValueError as error:
        yield " ".join(str(error).split())
        return
    assert known is not None
    yield from lost(document, json.loads(known.to_json()), "")


def lost(given: Any, known: Any, path: str) -> Iterator[str]:
    """Paths of what is in `given` and not in `known`."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}.{key}"
            else:
                yield from lost(value, known[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(known, list):
        for number, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != known:
        yield f"{path}: {given!r} is taken as {known!r}"


def of_operator(document: dict[str, Any]) -> Iterator[str]:
    """A PyTorchJob, by the models of kubeflow-training and kubernetes."""
    from kubeflow.training import models

    yield from unknown(document, "KubeflowOrgV1PyTorchJob", models, "")


_PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object, "datetime": str}


def unknown(value: Any, kind: str, models: Any, path: str) -> Iterator[str]:
    """Paths of what a generated model has no field for, or one of another type."""
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]):
            yield f"{path}: {value!r} is no {kind}"
        return
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        for number, part in enumerate(value):
            yield from unknown(part, match[1], models, f"{path}[{number}]")
        return
    if match := re.fullmatch(r"dict\((\w+), (.*)\)", kind):
        for key, part in value.items():
            yield from unknown(part, match[2], models, f"{path}.{key}")
        return
    model = getattr(models, kind)
    types = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
    for key, part in value.items():
        if key not in types:
            yield f"{path}.{key}"
        else:
            yield from unknown(part, types[key], models, f"{path}.{key}")


KINDS = {"TrainJob": of_trainer, "PyTorchJob": of_operator}


if __name__ == "__main__":
    main()
