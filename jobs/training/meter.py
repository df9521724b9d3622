"""How fast an epoch went and what it took of the machine."""

from __future__ import annotations

import resource
import time

import torch


class Meter:
    """Measures from one call of `measure` to the next, in the process that trains."""

    def __init__(self, device: torch.device, num_threads: int) -> None:
        self._device, self._threads = device, num_threads
        self._begin(0)

    def measure(self, samples: int) -> dict[str, float]:
        """Return samples/s over all workers, memory in MiB (the peak), and the share of the processor used, 0 to 1.

        samples: trained on so far. On a GPU memory is the device's; its share is left out where its driver tells none.
        """
        took, used = time.perf_counter() - self._started, time.process_time() - self._used
        measured = {"samples_per_s": (samples - self._samples) / took, "memory_mb": self._memory()}
        if self._device.type == "cpu":
            measured["utilisation"] = min(1.0, used / took / self._threads)
        else:
            measured.update(self._of_gpu())
        self._begin(samples)
        return measured

    def _begin(self, samples: int) -> None:
        self._samples, self._started, self._used = samples, time.perf_counter(), time.process_time()

    def _memory(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def _of_gpu(self) -> dict[str, float]:
        try:
            return {"utilisation": torch.cuda.utilization(self._device) / 100}
        except (ModuleNotFoundError, RuntimeError):  # no NVML here
            return {}
