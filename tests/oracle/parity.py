"""The demo network in PyTorch from the same weights and batches: loss, every gradient tensor, and weights after AdamW steps must agree. Prints TAP."""
import gzip
import sys

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
folder, batch, steps, lr = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
data = "/usr/share/datasets/fashion-mnist/train-"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 48, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(48)
        self.fc1 = nn.Linear(48 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = torch.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


lines = open(f"{folder}/info.txt").read().split("\n")
mean, deviation = map(float, lines[0].split())
tensors = {}
for line in lines[1:]:
    if line:
        name, kind, offset, elems, *dims = line.split()
        tensors[name] = (int(kind), int(offset), int(elems), [int(d) for d in dims])


def arena(name):
    flat = np.fromfile(f"{folder}/{name}", dtype="<f4")
    return {k: torch.from_numpy(flat[o:o + n].copy()).reshape(d) for k, (_, o, n, d) in tensors.items()}


with gzip.open(data + "images-idx3-ubyte.gz") as f:
    images = np.frombuffer(f.read(), dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28)
with gzip.open(data + "labels-idx1-ubyte.gz") as f:
    labels = np.frombuffer(f.read(), dtype=np.uint8, offset=8)
net = Net()
net.load_state_dict(arena("weights0"), strict=False)
grads, after = arena("grad0"), arena("weights1")
losses = np.fromfile(f"{folder}/losses", dtype="<f8")
optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
test = 0


def ok(good, name, why=""):
    global test
    test += 1
    print(("ok" if good else "not ok"), test, "-", name, why, flush=True)


curve = []
for s in range(steps):
    x = (torch.from_numpy(images[s * batch:(s + 1) * batch].astype(np.float32)) / 255 - mean) / deviation
    y = torch.from_numpy(labels[s * batch:(s + 1) * batch].astype(np.int64))
    loss = nn.functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    curve.append(loss.item())
    if s == 0:
        ok(abs(loss.item() - losses[0]) <= 2e-6 * abs(losses[0]), "loss of the first step", f"{losses[0]:.9f} {loss.item():.9f}")
        for name, p in net.named_parameters():
            mine = grads[name] / batch
            error = ((mine - p.grad).norm() / p.grad.norm()).item()
            ok(error < 1e-5, f"gradient of {name}", f"relative error {error:.2e}")
        for name, p in net.named_buffers():
            if name in grads:
                mine = grads[name] / batch * 0.1 + (0.9 if name.endswith("var") else 0)
                error = ((mine - p).norm() / p.norm()).item()
                ok(error < 1e-5, f"statistic {name}", f"relative error {error:.2e}")
    optimizer.step()
worst = max(abs(a - b) / b for a, b in zip(losses, curve))
ok(worst < 2e-3, f"loss curve of {steps} steps", f"largest relative difference {worst:.2e}")
total = sum(((after[n] - p).norm() ** 2).item() for n, p in net.named_parameters()) ** 0.5
norm = sum((p.norm() ** 2).item() for p in net.parameters()) ** 0.5
ok(total / norm < 1e-2, f"weights after {steps} AdamW steps", f"relative difference {total / norm:.2e}")
print(f"1..{test}")
