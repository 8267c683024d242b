import json
import sys

import cv2
import numpy as np
import openvino

core = openvino.Core()
network = core.read_model(sys.argv[1])
photo, lowest = cv2.imread(sys.argv[2])[:, :, ::-1], float(sys.argv[3])
said = {key: json.loads(value.astype(str)) for key, value in network.get_rt_info()["framework"].items()}
network.reshape([1, 3, said["height"], said["width"]])  # one image at a time: compiled for it, it is faster
compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def resized(image, size):
    """Sides that shrink to half or less by area, others linearly."""
    between = [new if new <= old / 2 else old for new, old in zip(size, image.shape[1::-1], strict=True)]
    image = cv2.resize(image, between, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


high, wide = photo.shape[:2]
width, height = said["width"], said["height"]
left, top, size = 0, 0, (width, height)
if said["resize"]["mode"] == "letterbox":
    scale = min(width / wide, height / high)
    size = min(max(round(scale * wide), 1), width), min(max(round(scale * high), 1), height)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
image = np.empty((height, width, 3), np.uint8)
image[:] = said["resize"]["fill"]
image[top : top + size[1], left : left + size[0]] = resized(photo, size)
data = ((image / 255.0 - said["mean"]) / said["std"]).transpose(2, 0, 1)[None].astype(np.float32)

outputs = compiled({"data": data})
ids, scores, boxes = (outputs[name][0] for name in ("ids", "scores", "boxes"))
boxes = (boxes - [left, top] * 2) * ([wide / size[0], high / size[1]] * 2)
boxes = boxes.clip(0, [wide, high] * 2)
for row in np.flatnonzero(scores[:, 0] >= lowest):
    print(said["names"][int(ids[row, 0])], f"{scores[row, 0]:.3f}", *boxes[row].round(1))
