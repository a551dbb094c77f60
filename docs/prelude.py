"""What every block of Python in these pages can rely on: the digits, a model, a loader."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from batchfinder.demo import digits, network

torch.manual_seed(0)
dataset = digits()
model = network()
loader = DataLoader(dataset, batch_size=32, shuffle=True)
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
