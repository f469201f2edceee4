"""Puts fixtures where the fuzz targets look for seeds: python make_seeds.py FOLDER_OF_WEIGHTS FOLDER_OF_IMAGES corpus"""

import json
import pathlib
import shutil
import sys

fixtures, images, corpus = map(pathlib.Path, sys.argv[1:])
for target in ("torch", "safetensors", "decode"):
    (corpus / target).mkdir(parents=True, exist_ok=True)
for file in fixtures.iterdir():
    if file.suffix != ".json":
        shutil.copy(file, corpus / "torch" / file.name)
for file in images.iterdir():
    if not file.name.endswith(".rgb.png"):
        shutil.copy(file, corpus / "decode" / file.name)
headers = {
    "two": ({"a": ("F32", [2], 8), "b": ("I64", [1, 1], 8), "__metadata__": {"k": "v"}}),
    "types": {f"t{i}": (dtype, [2], size) for i, (dtype, size) in enumerate([("F64", 16), ("F16", 4), ("BF16", 4), ("F8_E4M3", 2), ("F4", 1)])},
    "none": {"a": ("F32", [0, 3], 0), "b": ("F32", [], 4)},
    "empty": {},
}
for name, tensors in headers.items():
    header, at = {}, 0
    for key, value in tensors.items():
        if key == "__metadata__":
            header[key] = value
            continue
        dtype, shape, size = value
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (corpus / "safetensors" / name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(at)))
