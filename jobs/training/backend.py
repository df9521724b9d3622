"""Ray Train's process group of PyTorch, each worker on the network interface that holds its own node's address."""

from __future__ import annotations

import os

from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

from cluster.interface import interface_of

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


class OwnInterface(TorchConfig):
    """`TorchConfig`, with nothing to set by hand on several hosts.

    By itself Gloo listens on whatever the host's name resolves to, often the loopback address, which no other host
    reaches, and NCCL takes the first interface that it likes.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what Ray Train calls when a group of workers starts and ends."""
        return _OwnInterfaceBackend


class _OwnInterfaceBackend(Backend):
    """Torch's own backend, with one thing done before it. What is used is Ray's developer API, nothing private."""

    share_cuda_visible_devices = True  # as torch's own

    def __init__(self) -> None:
        self._torch: Backend = TorchConfig().backend_cls()

    def on_start(self, worker_group, backend_config: BackendConfig) -> None:  # type: ignore[no-untyped-def]  # Ray's own type of it is internal
        """Let each worker choose its interface, then make the process group; a worker alone talks to none."""
        if len(worker_group) > 1:
            worker_group.execute(choose_interface)
        self._torch.on_start(worker_group, backend_config)

    def on_training_start(self, worker_group, backend_config: BackendConfig) -> None:  # type: ignore[no-untyped-def]
        """Do as torch's own."""
        self._torch.on_training_start(worker_group, backend_config)

    def on_shutdown(self, worker_group, backend_config: BackendConfig) -> None:  # type: ignore[no-untyped-def]
        """Do as torch's own."""
        self._torch.on_shutdown(worker_group, backend_config)


def choose_interface() -> None:
    """Tell Gloo and NCCL of this process the interface of the node's address, unless a person has.

    Raises RuntimeError where no interface holds the address.
    """
    if GLOO in os.environ and NCCL in os.environ:
        return
    name = interface_of(get_node_ip_address())
    os.environ.setdefault(GLOO, name)
    os.environ.setdefault(NCCL, f"={name}")  # "=": this one, not all that begin so (NCCL's documentation)
