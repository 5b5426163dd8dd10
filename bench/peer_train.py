"""Training speed of PyTorch on the demo network: 1 process, T threads, channels-last, as good as it gets out of the box. Prints JSON."""
import json
import sys
import time

import torch
from torch import nn

steps, threads, batch = int(sys.argv[1]), int(sys.argv[2]), 256
torch.set_num_threads(threads)
torch.manual_seed(1)
net = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
                    nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
                    nn.Flatten(), nn.Linear(48 * 49, 128), nn.ReLU(), nn.Linear(128, 10)).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.01, fused=True)
x = torch.rand(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last)
y = torch.randint(0, 10, (batch,))


def step():
    loss = nn.functional.cross_entropy(net(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss


for _ in range(5):
    step()
begin = time.perf_counter()
for _ in range(steps):
    step()
seconds = time.perf_counter() - begin
print(json.dumps({"samples_per_second": round(steps * batch / seconds, 1), "torch": torch.__version__}))
