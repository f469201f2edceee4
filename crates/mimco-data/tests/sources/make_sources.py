"""Writes datasets with other programs: WebDataset's shards and Hugging Face's Parquet files, and lists their contents.

    pip install webdataset==1.0.2 datasets==5.2.0 pillow==13.0.0 numpy==2.4.6 pyarrow==26.0.1
    python make_sources.py               writes ../fixtures/sources
    python make_sources.py --big FOLDER  writes larger datasets of 500 images

Both write `expected.json`: for each dataset its path, its class names (null if none are stored), and its images in order.
An image has mimco's `name`, its `label`, the hash `stored` of its bytes, and for lossless images the hash `pixels` of
Pillow's RGB bytes. Hashes are 64-bit FNV-1a in hexadecimal.
"""

import argparse
import io
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

CLASSES = ["hat", "shoe", "a \"quoted\" bag", "Mütze"]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})


def fnv(data):
    hash = 0xCBF29CE484222325
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{hash:016x}"


def picture(index, side):
    """Returns an image's bytes and format: every third is a grayscale JPEG, the others are color PNGs of different sizes."""
    random = np.random.default_rng(index)
    height, width = random.integers(side // 2, side, 2)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kind = "jpg" if index % 3 == 2 else "png"
    stream = io.BytesIO()
    Pillow.fromarray(pixels).convert("L" if kind == "jpg" else "RGB").save(stream, "jpeg" if kind == "jpg" else "png", optimize=True)
    return stream.getvalue(), kind


def entry(name, label, data, kind):
    image = {"name": name, "label": label, "stored": fnv(data)}
    if kind == "png":
        image["pixels"] = fnv(Pillow.open(io.BytesIO(data)).convert("RGB").tobytes())
    return image


def labels(count):
    return [int(label) for label in np.random.default_rng(99).integers(0, len(CLASSES), count)]


def shards(folder, pictures, per_shard):
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    pattern = str(folder / "set-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_shard, mtime=0, verbose=0) as writer:
        for index, ((data, kind), label) in enumerate(zip(pictures, labels(len(pictures)))):
            key = f"{index:06d}"
            writer.write({"__key__": key, kind: data, "cls": label, "json": {"index": index}})
            images.append(entry(f"set-{index // per_shard:06d}.tar/{key}.{kind}", label, data, kind))
    return {"path": folder.name, "classes": None, "images": images}


def parquet(folder, pictures, per_file, per_group, **options):
    """Writes with pyarrow like older releases of `datasets` if there are options, otherwise with `datasets`."""
    folder.mkdir(parents=True, exist_ok=True)
    images, files = [], -(-len(pictures) // per_file)
    all_labels = labels(len(pictures))
    for file in range(files):
        rows = range(file * per_file, min((file + 1) * per_file, len(pictures)))
        columns = {"image": [{"bytes": pictures[row][0], "path": f"{row}.{pictures[row][1]}"} for row in rows]}
        columns["label"] = [all_labels[row] for row in rows]
        dataset = Dataset.from_dict(columns, features=FEATURES)
        name = f"train-{file:05d}-of-{files:05d}.parquet"
        if options:
            table = dataset.data.table.cast(FEATURES.arrow_schema)
            pq.write_table(table, folder / name, row_group_size=per_group, **options)
        else:
            dataset.to_parquet(folder / name, batch_size=per_group)
        images += [entry(f"{name}/{row - rows.start:06d}", all_labels[row], *pictures[row]) for row in rows]
    return {"path": folder.name, "classes": CLASSES if options.get("store_schema", True) else None, "images": images}


def odd(folder):
    """Writes small invalid files, and files unlike those of `datasets`, for the unit tests of Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    bytes_of = [f"image {index}".encode() for index in range(4)]
    struct = [{"bytes": data, "path": None} for data in bytes_of]
    small = {"compression": "none", "write_statistics": False, "store_schema": False}

    def write(name, columns, **options):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", **small | options)

    write("nulls", {"image": [struct[0], None, {"bytes": None, "path": "far/away.png"}, struct[3]], "label": pa.array([1, None, 0, 2], pa.int32())})
    write("unlabelled", {"image": struct, "label": [-1] * 4})
    write("negative", {"image": struct[:2], "label": [0, -2]})
    write("partly", {"image": struct[:3], "label": [0, -1, 1]})
    write("other_struct", {"id": range(4), "photo": struct, "tags": [["a"], [], ["b", "c"], None], "label": ["a", "b", "a", "b"]})
    write("bytes", {"image": ["a.png"] * 4, "jpg": bytes_of, "fine_label": pa.array([3, 2, 1, 0], pa.int8())})
    write("text", {"image": ["a.png"]})
    # Several pages of numbers in a dictionary.
    write("dictionary", {"png": bytes_of * 200}, compression="snappy", data_page_size=16, write_batch_size=50)
    write("brotli", {"img": bytes_of[:1]}, compression="brotli")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--big", metavar="FOLDER", type=pathlib.Path)
    folder = parser.parse_args().big
    if folder:
        pictures = [picture(index, 96) for index in range(500)]
        sources = [shards(folder / "shards", pictures, 110), parquet(folder / "parquet", pictures, 180, 50)]
        for packed in ["none", "snappy", "gzip", "zstd", "lz4"]:
            sources.append(parquet(folder / packed, pictures, 180, 50, compression=packed))
        sources.append(parquet(folder / "second", pictures, 180, 50, compression="snappy", data_page_version="2.0", version="2.6"))
    else:
        folder = pathlib.Path(__file__).parent.parent / "fixtures" / "sources"
        pictures = [picture(index, 8) for index in range(6)]
        sources = [shards(folder / "shards", pictures, 3), parquet(folder / "parquet", pictures, 3, 2)]
        # Each image twice, which compresses well; with and without a dictionary, with both versions of pages.
        twice, small = pictures[1:3] * 2, {"write_statistics": False, "store_schema": False}
        for packed, version in [("snappy", "1.0"), ("gzip", "2.0"), ("zstd", "1.0"), ("lz4", "2.0")]:
            small |= {"compression": packed, "data_page_version": version, "use_dictionary": packed == "gzip"}
            sources.append(parquet(folder / packed, twice, 4, 4, **small))
        odd(folder / "odd")
    lines = [json.dumps(source, ensure_ascii=False).replace(' {"name"', '\n{"name"').replace('[{"name"', '[\n{"name"') for source in sources]
    (folder / "expected.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


main()
