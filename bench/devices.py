"""`Device`: where a benchmark runs and in which dtype, its clock, its peak memory, and the speed of its products."""

import argparse
import time
from dataclasses import dataclass

import torch
from processes import peak_bytes

DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
NOT_FOUND = (
    "no CUDA device was found: torch.cuda.is_available() is False. Run the same command on a machine that has one, or "
    "leave out --device=cuda to measure the CPU."
)


@dataclass(frozen=True)
class Device:
    """A device and the dtype in which models run on it.

    Args:
        name: `cpu` or `cuda`.
        dtype: Of weights and activations; a training step keeps its weights in float32 and uses autocast.
    """

    name: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"

    def __str__(self) -> str:
        card = torch.cuda.get_device_name() if self.is_gpu else f"CPU, {torch.get_num_threads()} threads"
        return f"{card}, {str(self.dtype).removeprefix('torch.')}"

    def flags(self) -> list[str]:
        """Return the options that choose this device."""
        return [f"--device={self.name}", f"--dtype={str(self.dtype).removeprefix('torch.')}"]

    def mixed_precision(self) -> torch.autocast:
        """Return the context in which float32 weights give products of the device's dtype."""
        return torch.autocast(self.name, self.dtype, enabled=self.dtype != torch.float32)

    def wait(self) -> None:
        """Return once the device has done its work."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def clock(self) -> float:
        """Return CPU seconds of this process; on a GPU, seconds of the clock once it has done its work."""
        self.wait()
        return time.perf_counter() if self.is_gpu else time.process_time()

    def forget_peak(self) -> None:
        """Reset the peak of the GPU's memory; the peak of a process cannot be reset."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """Return the most memory that this process has held on the device so far."""
        return torch.cuda.max_memory_allocated() if self.is_gpu else peak_bytes()

    def operations_per_second(self, repeats: int = 9) -> float:
        """Measure the peak: the best speed of the product of two square matrices, by the clock."""
        width, spent = (8192 if self.is_gpu else 1536), []
        left, right = torch.randn(2, width, width, device=self.name, dtype=self.dtype)
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            left @ right
            self.wait()
            spent.append(time.perf_counter() - began)
        return 2 * width**3 / min(spent)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the device."""
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU and bfloat16 on a GPU")


def chosen(options: argparse.Namespace) -> Device:
    """Return the device that the options choose.

    Raises:
        SystemExit: If it is CUDA and there is none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(NOT_FOUND)
    return Device(options.device, getattr(torch, options.dtype) if options.dtype else DTYPES[options.device])
