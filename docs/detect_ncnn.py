import json
import sys

import cv2
import ncnn
import numpy as np

network = ncnn.Net()
network.load_param(sys.argv[1])
network.load_model(sys.argv[1].removesuffix(".param") + ".bin")
photo, lowest = cv2.imread(sys.argv[2]), float(sys.argv[3])
with open(sys.argv[4], encoding="utf-8") as file:
    model = json.load(file)

high, wide = photo.shape[:2]
width, height = model["input"]["width"], model["input"]["height"]
between = [new if new <= old / 2 else old for new, old in ((width, wide), (height, high))]
image = cv2.resize(cv2.resize(photo, between, interpolation=cv2.INTER_AREA), (width, height))
image = (image[:, :, ::-1] / 255.0 - model["input"]["mean"]) / model["input"]["std"]

extractor = network.create_extractor()
data = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
extractor.input("in0", ncnn.Mat(data).clone())
boxes, scores = (np.array(extractor.extract(name)[1]) for name in ("out0", "out1"))
for number, name in enumerate(model["classes"]):
    places = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
    for row in np.ravel(cv2.dnn.NMSBoxes(places, scores[:, number].tolist(), lowest, 0.45)).astype(int):
        box = boxes[row] * ([wide / width, high / height] * 2)
        print(name, f"{scores[row, number]:.3f}", *box.clip(0, [wide, high] * 2).round(1))
