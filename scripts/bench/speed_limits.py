"""What the processor can do: matrix products and memory, the scale that throughput is held against."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch


def _seconds(work: Callable[[], Any], device: torch.device, runs: int = 9) -> float:
    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    once()
    return median(once() for _ in range(runs))


def _processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _size(device: torch.device) -> int:
    return 2048 if device.type == "cpu" else 8192


def product_flops(dtype: torch.dtype, runs: int = 9) -> float:
    """FLOP/s of a square product, the better of its two layouts."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = _size(device)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = min(_seconds(lambda: left @ right, device, runs), _seconds(lambda: left @ right.t(), device, runs))
    return 2 * size**3 / seconds


def measure_limits() -> dict[str, Any]:
    """FLOP/s of a square product in each precision, and bytes/s read and copied."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    can = torch.cpu.get_capabilities()
    features = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if can.get(name)]
    found: dict[str, Any] = {"processor": _processor(), "features": features}
    found |= {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "size": _size(device)}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[f"{name}_flops"] = product_flops(dtype)
    numbers = torch.randn(64 << 20, device=device)
    target = torch.empty_like(numbers)
    found["read_bytes_per_s"] = 4 * numbers.numel() / _seconds(numbers.sum, device)
    found["copy_bytes_per_s"] = 8 * numbers.numel() / _seconds(lambda: target.copy_(numbers), device)
    found["threads"] = torch.get_num_threads()
    return found
