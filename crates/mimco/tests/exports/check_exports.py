"""Loads the exports of `mimco convert` in the libraries they are for, and compares the tokens with the checkpoints'.

    python check_exports.py BINARY [--fixtures FOLDER] [--keep FOLDER]

(PyTorch 2.13, timm 1.0.31, transformers 5, onnxruntime 1.32, safetensors 0.8.) make_checkpoints.py makes FOLDER.
For some of its checkpoints, `BINARY convert FILE OUT --to FORM [SETTING...]` writes:
    timm     a folder with model.safetensors and config.json: loaded into timm's VisionTransformer with the config's
             "model_args" and every name matched, and by timm.create_model("local-dir:OUT"); the config's mean and std
    hf       a folder with model.safetensors, config.json and preprocessor_config.json: loaded by transformers' AutoModel
             with every name matched; the processor's mean and std
    onnx     a file: run by onnxruntime with the input `pixel_values` and the outputs `tokens`, `class` and `mean`, also
             with another batch size
    native   a file: converted once more, to timm
Tokens may differ by 1e-4 of their norm. Prints a line for each export; the exit status is 1 if any check fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

TOLERANCE = 1e-4

# Every layout once to timm, then the variants that a form distinguishes: LayerScale, registers, neither.
CHECKS = {
    "timm": [
        "moco_v3.pth.tar", "moby.pth", "dino.pth", "ibot.pth", "mae.pth", "dinov2.pth", "dinov2_reg.pth", "timm.safetensors", "timm_reg.pth",
        "timm_train.pth.tar", "mmpretrain.pth", "hf_vit", "hf_vit_classifier", "hf_dinov2", "hf_dinov2_reg",
    ],
    "hf": ["moco_v3.pth.tar", "dinov2.pth", "dinov2_reg.pth", "timm_reg.pth", "mmpretrain.pth", "hf_vit", "hf_dinov2", "hf_dinov2_reg"],
    "onnx": ["moco_v3.pth.tar", "dinov2.pth", "dinov2_reg.pth", "timm_train.pth.tar", "hf_vit"],
    "native": ["moco_v3.pth.tar", "dinov2_reg.pth", "hf_vit"],
}


class Failed(Exception):
    pass


def require(condition, what):
    if not condition:
        raise Failed(what)


class Checks:
    def __init__(self, binary, fixtures, work):
        self.binary, self.fixtures, self.work = binary, fixtures, work
        self.entries = {entry["file"]: entry for entry in json.loads((fixtures / "manifest.json").read_text())}
        self.expected = load_file(fixtures / "expected.safetensors")

    def convert(self, source, to, form, settings=()):
        command = [str(self.binary), "convert", str(source), str(to), "--to", form, *settings]
        ran = subprocess.run(command, capture_output=True, text=True)
        message = (ran.stderr or ran.stdout).strip()
        require(ran.returncode == 0, f"ended with {ran.returncode}: {message}")

    def pixels(self, entry):
        mean, std = (torch.tensor(entry[name])[:, None, None] for name in ("mean", "std"))
        return (self.expected[entry["images"]] - mean) / std

    def same(self, what, got, wanted):
        require(tuple(got.shape) == tuple(wanted.shape), f"{what}: shape {list(got.shape)}, not {list(wanted.shape)}")
        difference = float((got - wanted).norm() / wanted.norm())
        require(difference <= TOLERANCE, f"{what}: differs by {difference:.1e} of the norm")
        self.difference = max(self.difference, difference)

    def run(self, form, file):
        entry = self.entries[file]
        # Native and ONNX exports are a file, the others a folder.
        out = self.work / f"{file}-{form}"
        out = {"onnx": out / "model.onnx", "native": out / "backbone.safetensors"}.get(form, out)
        out.parent.mkdir(parents=True, exist_ok=True)
        self.difference = 0.0
        self.convert(self.fixtures / file, out, form, entry["settings"])
        getattr(self, form)(entry, out, self.expected[entry["tokens"]])
        return self.difference

    def statistics(self, entry, found, where):
        for name, values in (("mean", found[0]), ("std", found[1])):
            require(torch.allclose(torch.tensor(entry[name]), torch.tensor(list(values)), atol=1e-6), f"{where}: {name} {values}, not {entry[name]}")

    def timm(self, entry, out, wanted):
        import timm
        from timm.models.vision_transformer import VisionTransformer

        config = json.loads((out / "config.json").read_text())
        weights = load_file(out / "model.safetensors")
        plain = VisionTransformer(**{"num_classes": 0} | config["model_args"])
        plain.load_state_dict(weights, strict=True)
        created = timm.create_model(f"local-dir:{out}", pretrained=True)
        require(created.num_classes == 0, f"a classifier of {created.num_classes}")
        for name, model in (("VisionTransformer", plain), ("create_model", created)):
            require(set(model.state_dict()) == set(weights), f"{name}: names differ: {sorted(set(model.state_dict()) ^ set(weights))}")
            with torch.no_grad():
                self.same(name, model.eval().forward_features(self.pixels(entry)), wanted)
                self.same(f"{name}, pooled", model(self.pixels(entry)), self.pooled(config.get("global_pool", "token"), entry, wanted))
        found = timm.data.resolve_model_data_config(created)
        self.statistics(entry, (found["mean"], found["std"]), "config.json")
        require(found["input_size"] == (3, entry["image"], entry["image"]), f"input_size {found['input_size']}")

    def pooled(self, pooling, entry, tokens):
        return tokens[:, 0] if pooling in ("token", "class") else tokens[:, 1 + entry["registers"]:].mean(1)

    def hf(self, entry, out, wanted):
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        # By default ViTModel adds a pooler, which no self-supervised method trains.
        options = {"add_pooling_layer": False} if AutoConfig.from_pretrained(out).model_type == "vit" else {}
        model, loading = AutoModel.from_pretrained(out, output_loading_info=True, dtype=torch.float32, **options)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            require(not loading.get(kind), f"{kind}: {sorted(loading[kind])[:4]}")
        with torch.no_grad():
            self.same(type(model).__name__, model.eval()(self.pixels(entry)).last_hidden_state, wanted)
        processor = AutoImageProcessor.from_pretrained(out)
        self.statistics(entry, (processor.image_mean, processor.image_std), "preprocessor_config.json")
        # The processor only normalizes an image that has the right size.
        pictures = (self.expected[entry["images"]] * 255).round().byte()
        self.same("processor", processor(list(pictures), return_tensors="pt")["pixel_values"], self.pixels(entry))

    def onnx(self, entry, out, wanted):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()], sorted(value.name for value in session.get_outputs())
        require(names == (["pixel_values"], ["class", "mean", "tokens"]), f"inputs and outputs {names}")
        for batch in (2, 1):
            tokens, first, mean = session.run(["tokens", "class", "mean"], {"pixel_values": self.pixels(entry)[:batch].numpy()})
            self.same("tokens", torch.from_numpy(tokens), wanted[:batch])
            self.same("class", torch.from_numpy(first), wanted[:batch, 0])
            self.same("mean", torch.from_numpy(mean), self.pooled("mean", entry, wanted[:batch]))

    def native(self, entry, out, wanted):
        load_file(out)
        again = out.parent / "timm"
        self.convert(out, again, "timm")
        self.timm(entry, again, wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--fixtures", type=Path, default=Path(__file__).resolve().parent.parent / "fixtures" / "checkpoints")
    parser.add_argument("--keep", type=Path, help="folder to write to instead of a temporary one")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        checks = Checks(arguments.binary.resolve(), arguments.fixtures, arguments.keep or Path(temporary))
        for form, files in CHECKS.items():
            for file in files:
                try:
                    print(f"ok      {form:<7}{file:<24}{checks.run(form, file):.1e}")
                except Failed as why:
                    print(f"FAILED  {form:<7}{file:<24}{why}")
                    failures += 1
                except Exception as why:  # an error of the library
                    print(f"FAILED  {form:<7}{file:<24}{type(why).__name__}: {str(why).strip().splitlines()[0] if str(why).strip() else ''}")
                    failures += 1
    print(f"{failures} failed" if failures else "all agree")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
