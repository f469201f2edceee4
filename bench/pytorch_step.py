"""Times one training step in PyTorch and timm, the counterpart of `mimco bench step`.

Model, losses and optimizer are the same, and the images are random.

forward   a teacher's inference: every token, no gradient
train     forward, backward and AdamW of one ViT; loss = mean((mean token - 1/2)^2)
mimco     frozen teacher on the whole images; student with 120 of 196 patches masked; InfoNCE of each
          masked patch among the masked patches of its image, and of each class token among those of
          the batch; AdamW
moco_v3   two views; projector of 3 layers and predictor of 2 (4,096 wide, 256 out, batch norm);
          momentum encoder and projector; symmetric InfoNCE; frozen patch embedding; AdamW

Prints one JSON line. img_per_s is the batch size over the median time of a step, after two warm-up steps.
"""
import argparse
import json
import resource
import statistics
import sys
import time

import timm
import torch
from torch import nn
from torch.nn import functional as F

PATCHES, HIDDEN, TEMPERATURE = 196, 120, 0.2


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--model", default="small", choices=["tiny", "small", "base"])
    p.add_argument("--step", default="train", choices=["forward", "train", "mimco", "moco_v3"])
    p.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--steps", type=int, default=9)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--compile", action="store_true")
    return p.parse_args()


def encode(vit, images, hidden=None, mask_token=None):
    """Tokens after the final norm, [batch, 1 + patches, width]."""
    x = vit.patch_embed(images)
    if hidden is not None:
        x = torch.where(hidden[..., None], mask_token.to(x.dtype), x)
    return vit.norm(vit.blocks(vit._pos_embed(x)))


def info_nce(queries, keys):
    """Row i's positive is key i of its group; [..., rows, width] each."""
    logits = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).transpose(-1, -2) / TEMPERATURE
    target = torch.arange(logits.shape[-1]).expand(logits.shape[:-1])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))


def head(widths):
    parts = []
    for i, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        last = i + 2 == len(widths)
        parts += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=not last)]
        parts += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)


class Work:
    def __init__(self, a):
        self.a = a
        vit = lambda: timm.create_model(f"vit_{a.model}_patch16_224", num_classes=0)
        # Only what the step needs, since memory is compared too.
        self.student = vit() if a.step != "forward" else None
        self.teacher = vit().requires_grad_(False) if a.step != "train" else None
        width = (self.student or self.teacher).num_features
        self.images = [torch.randn(a.batch, 3, 224, 224) for _ in range(2 if a.step == "moco_v3" else 1)]
        trained = list(self.student.parameters()) if self.student else []
        if a.step == "mimco":
            self.teacher.eval()
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.heads = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
            trained += [self.mask_token, *self.heads.parameters()]
            places = torch.stack([torch.randperm(PATCHES)[:HIDDEN].sort().values for _ in range(a.batch)])
            self.places = places[..., None].expand(-1, -1, width)
            self.hidden = torch.zeros(a.batch, PATCHES, dtype=torch.bool).scatter_(1, places, True)
        if a.step == "moco_v3":
            self.student.patch_embed.requires_grad_(False)
            self.projector, self.predictor = head([width, 4096, 4096, 256]), head([256, 4096, 256])
            self.momentum_projector = head([width, 4096, 4096, 256]).requires_grad_(False)
            trained = [*self.student.parameters(), *self.projector.parameters(), *self.predictor.parameters()]
            self.followed = [*self.student.parameters(), *self.projector.parameters()]
            self.followers = [*self.teacher.parameters(), *self.momentum_projector.parameters()]
        trained = [p for p in trained if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True) if trained else None
        self.loss = getattr(self, a.step)
        if a.compile:
            self.loss = torch.compile(self.loss)

    def forward(self, images):
        return encode(self.teacher, images[0])

    def train(self, images):
        return ((encode(self.student, images[0]).mean(1).float() - 0.5) ** 2).mean()

    def mimco(self, images):
        with torch.no_grad():
            target = encode(self.teacher, images[0])
        tokens = encode(self.student, images[0], self.hidden, self.mask_token)
        patches = info_nce(self.heads[0](tokens[:, 1:].gather(1, self.places)), target[:, 1:].gather(1, self.places))
        return patches + info_nce(self.heads[1](tokens[:, 0]), target[:, 0])

    def moco_v3(self, images):
        with torch.no_grad():
            keys = [self.momentum_projector(encode(self.teacher, view)[:, 0]) for view in images]
        queries = [self.predictor(self.projector(encode(self.student, view)[:, 0])) for view in images]
        return 2 * TEMPERATURE * (info_nce(queries[0], keys[1]) + info_nce(queries[1], keys[0]))

    def step(self):
        bf16 = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.a.precision == "bf16")
        if self.a.step == "forward":
            with torch.no_grad(), bf16:
                return self.loss(self.images)
        self.optimizer.zero_grad(set_to_none=True)
        with bf16:
            loss = self.loss(self.images)
        loss.backward()
        self.optimizer.step()
        if self.a.step == "moco_v3":
            with torch.no_grad():
                torch._foreach_lerp_(self.followers, [p.detach() for p in self.followed], 0.01)
        return loss


def main():
    a = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    work = Work(a)
    work.step(), work.step()
    times = []
    for _ in range(a.steps):
        began = time.perf_counter()
        work.step()
        times.append(time.perf_counter() - began)
    print(json.dumps({
        "stack": f"pytorch {torch.__version__}", "model": a.model, "step": a.step, "precision": a.precision, "compiled": a.compile,
        "batch": a.batch, "threads": a.threads, "img_per_s": a.batch / statistics.median(times), "best_img_per_s": a.batch / min(times),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024),
    }))


main()
