"""python predict.py DEPLOYMENT: votes of the dual predictor for digit.json, with ONNX Runtime.

DEPLOYMENT is what `dualsmooth export digits-dual --out DEPLOYMENT` wrote.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

if len(sys.argv) != 2 or not Path(sys.argv[1], "dual.onnx").is_file():
    sys.exit(__doc__)
pixels = json.loads(Path(__file__).with_name("digit.json").read_text())["pixels"]
session = onnxruntime.InferenceSession(f"{sys.argv[1]}/dual.onnx")
selector, level, sigma, votes = session.run(
    None,
    {
        "image": (np.array(pixels, np.float32) / 255).reshape(8, 8, 1),
        "key": np.array([0, 0], np.uint32),  # seed, low word first
        "image_id": np.array(0, np.uint32),
        "attempt": np.array(0, np.uint32),
        "first": np.array(0, np.uint32),
        "n": np.array(1000),
    },
)
print("selector", *selector)
print("sigma", f"{sigma:.2f}")
print("votes", *votes)
