"""Times torch.mm on the shapes of `mimco bench gemm`, from two plain matrices to a third. Prints one JSON line."""
import argparse
import json
import statistics
import time

import torch

p = argparse.ArgumentParser()
p.add_argument("--precision", default="bf16", choices=["f32", "bf16"])
p.add_argument("--threads", type=int, default=2)
p.add_argument("--repeats", type=int, default=21)
p.add_argument("shapes", nargs="*", default=["1576x384x1536", "1576x1536x384"])
a = p.parse_args()
torch.set_num_threads(a.threads)
kind = {"f32": torch.float32, "bf16": torch.bfloat16}[a.precision]
products = []
for shape in a.shapes:
    m, k, n = map(int, shape.split("x"))
    x, y, out = torch.randn(m, k).to(kind), torch.randn(k, n).to(kind), torch.empty(m, n, dtype=kind)
    times = []
    for i in range(a.repeats + 2):
        began = time.perf_counter()
        torch.mm(x, y, out=out)
        times.append(time.perf_counter() - began)
    products.append({"shape": [m, k, n], "gflops": 2e-9 * m * k * n / statistics.median(times[2:])})
print(json.dumps({"stack": f"pytorch {torch.__version__}", "precision": a.precision, "threads": a.threads, "products": products}))
