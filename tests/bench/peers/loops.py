"""The training loops that ours is measured beside, on the same table, network, optimizer and batches.

python -m tests.bench.peers.loops plain|dataloader|lightning|ours ROWS EPOCHS        in one process
torchrun --nproc-per-node 2 -m tests.bench.peers.loops ddp ROWS EPOCHS               in two

Each prints one line of JSON: samples a second of each epoch after the first.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cluster.columns import ColumnSchema, ModelSchema
from conf.compose import compose
from conf.schema import TrainConfig
from jobs.data.encode import Encoded
from jobs.training.context import LocalContext
from jobs.training.examples import Examples, TrainingData
from jobs.training.loop import Loop

COLUMNS, WIDTH, BATCH, LR = 32, 256, 1024, 1e-3


def table(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers [rows, COLUMNS] float32 and classes [rows] int64."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
    signal = numbers[:, :8].sum(1) + np.sin(3 * numbers[:, 8]) + rng.standard_normal(rows, dtype=np.float32)
    return numbers, (signal > 0).astype(np.int64)


def network() -> nn.Sequential:
    """Return the network of every row but ours, which has the same layers."""
    return nn.Sequential(nn.Linear(COLUMNS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))


def plain(rows: int, epochs: int) -> list[float]:
    """Train as one would by hand on tensors, on a GPU where there is one: shuffled by index, no DataLoader."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    numbers, classes = (torch.from_numpy(array).to(device) for array in table(rows))
    model, rates = network().to(device), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for _ in range(epochs):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        for batch in torch.randperm(rows, device=device).split(BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(numbers[batch]), classes[batch])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        float(total)  # waits for a GPU
        rates.append(rows / (time.perf_counter() - started))
    return rates


def dataloader(rows: int, epochs: int) -> list[float]:
    """Train with PyTorch's DataLoader, in the same process."""
    numbers, classes = (torch.from_numpy(array) for array in table(rows))
    data = torch.utils.data.TensorDataset(numbers, classes)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    model, rates = network(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for _ in range(epochs):
        started = time.perf_counter()
        for given, wanted in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(given), wanted)
            loss.backward()
            optimizer.step()
        rates.append(rows / (time.perf_counter() - started))
    return rates


def lightning(rows: int, epochs: int) -> list[float]:
    """Train with Lightning as its documentation shows: a LightningModule, a DataLoader, a Trainer."""
    from lightning import pytorch as pl

    numbers, classes = (torch.from_numpy(array) for array in table(rows))
    rates: list[float] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
            loss = functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LR)

        def on_train_epoch_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            rates.append(rows / (time.perf_counter() - self.started))

    data = torch.utils.data.TensorDataset(numbers, classes)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(max_epochs=epochs, enable_model_summary=False, **quiet).fit(Module(), loader)
    return rates


def training_data(rows: int) -> TrainingData:
    """Return the table as our loop takes it, with a small validation part."""
    numbers, classes = table(rows)

    def part(own: slice) -> Examples:
        nothing = np.empty((len(classes[own]), 0), np.int64)
        return Examples(Encoded(numbers[own], nothing, nothing), classes[own])

    columns = tuple(ColumnSchema(f"x{i}", "number") for i in range(COLUMNS))
    return TrainingData(ModelSchema("y", "binary", ("no", "yes"), columns), part(slice(None)), part(slice(0, 1000)))


def ours(rows: int, epochs: int, *said: str) -> list[float]:
    """Train with our loop, in process."""
    cfg = compose("train", [*overrides(epochs), *said], TrainConfig)
    loop, rates, started = Loop(cfg, training_data(rows), LocalContext()), list[float](), time.perf_counter()
    for _ in loop:
        rates.append(rows / (time.perf_counter() - started))
        started = time.perf_counter()
    return rates


def overrides(epochs: int) -> list[str]:
    """Return the config that trains what the peers train."""
    network = ["model=mlp", f"model.width={WIDTH}", "model.layers=2", "model.dropout=0"]
    training = [f"training.epochs={epochs}", f"training.batch_size={BATCH}", "training.keep=last"]
    return [
        "dataset=digits",
        *network,
        *training,
        "training.gradient_clip=0",
        f"optimizer.lr={LR}",
        "lr_schedule=constant",
    ]


def ddp(rows: int, epochs: int) -> list[float]:
    """Train on two processes of torchrun, each on every second row of a batch."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    numbers, classes = (torch.from_numpy(array) for array in table(rows))
    model = nn.parallel.DistributedDataParallel(network())
    optimizer, rates = torch.optim.AdamW(model.parameters(), lr=LR), []
    for epoch in range(epochs):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
        started = time.perf_counter()
        for batch in order.split(2 * BATCH):
            own = batch[rank::world]
            optimizer.zero_grad()
            functional.cross_entropy(model(numbers[own]), classes[own]).backward()
            optimizer.step()
        rates.append(rows / (time.perf_counter() - started))
    torch.distributed.destroy_process_group()
    return rates if rank == 0 else []


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, rows, epochs, *more = sys.argv[1:]
    measured = globals()[kind](int(rows), int(epochs), *more)
    if measured:
        print(json.dumps(measured[1:]))
