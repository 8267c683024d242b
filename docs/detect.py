"""Detect objects in a photo with a YOLOv3 model: python3 docs/detect.py LOG_DIR PHOTO LOWEST_SCORE"""

import json
import sys
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np

folder, photo, lowest = Path(sys.argv[1]), cv2.imread(sys.argv[2]), float(sys.argv[3])
model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
network = mx.gluon.SymbolBlock.imports(str(folder / model["symbol"]), ["data"], str(folder / model["params"]))

width, height = model["input"]["width"], model["input"]["height"]
size = width, height
between = [
    wanted if wanted <= given / 2 else given for wanted, given in zip(size, photo.shape[1::-1], strict=True)
]
image = cv2.resize(photo, between, interpolation=cv2.INTER_AREA)
image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
image = (image[:, :, ::-1] / 255.0 - model["input"]["mean"]) / model["input"]["std"]
data = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)

ids, scores, boxes = (output[0].asnumpy() for output in network(mx.nd.array(data)))
boxes *= [photo.shape[1] / width, photo.shape[0] / height] * 2
for row in np.flatnonzero(scores[:, 0] >= lowest):
    name, box = model["classes"][int(ids[row, 0])], boxes[row].round(1)
    print(name, f"{scores[row, 0]:.3f}", *box)
