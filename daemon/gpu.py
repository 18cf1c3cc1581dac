"""What the graphics cards report: NVIDIA through NVML, AMD through the kernel's files; nothing where there is no card.

A wedged driver can keep a reader waiting for ever, so the supervisor never reads: a child does, and `doctor`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AMD_VENDOR = "0x1002"  # PCI vendor id
SYSFS = Path("/sys/class/drm")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One card now. index: as the driver counts them. utilisation: share of the last second, 0 to 1; None: not said."""

    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation: float | None
    temperature_c: float | None


def read_gpus(sysfs: Path = SYSFS) -> tuple[GpuReading, ...]:
    """Every card that answers, NVIDIA's first. A card that stops answering meanwhile is left out."""
    return (*_nvidia(), *_amd(sysfs))


def _nvidia() -> Iterator[GpuReading]:
    import pynvml  # loads the driver's library only when asked to

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver here
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                yield _nvidia_card(index)
    finally:
        pynvml.nvmlShutdown()


def _nvidia_card(index: int) -> GpuReading:
    import pynvml

    card = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(card)
    utilisation: float | None = None
    temperature_c: float | None = None
    with contextlib.suppress(pynvml.NVMLError):  # a card split into instances reports none as a whole
        utilisation = pynvml.nvmlDeviceGetUtilizationRates(card).gpu / 100
    with contextlib.suppress(pynvml.NVMLError):
        temperature_c = float(pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU))
    return GpuReading(
        index=index, name=str(pynvml.nvmlDeviceGetName(card)), memory_total_bytes=int(memory.total),
        memory_used_bytes=int(memory.used), utilisation=utilisation, temperature_c=temperature_c,
    )  # fmt: skip


def _amd(sysfs: Path) -> Iterator[GpuReading]:
    """The amdgpu driver's own files, which need no ROCm package."""
    cards = sorted(
        (p for p in sysfs.glob("card[0-9]*") if p.name[4:].isdigit() and _text(p / "device" / "vendor") == AMD_VENDOR),
        key=lambda p: int(p.name[4:]),
    )
    index = 0
    for device in (card / "device" for card in cards):
        total, used = _number(device / "mem_info_vram_total"), _number(device / "mem_info_vram_used")
        if total is None or used is None:  # another driver holds it: nothing can be computed on it
            continue
        busy = _number(device / "gpu_busy_percent")
        millidegrees = next((t for p in sorted(device.glob("hwmon/hwmon*/temp1_input")) if (t := _number(p))), None)
        yield GpuReading(
            index=index, name=_text(device / "product_name") or f"AMD {_text(device / 'device') or 'graphics card'}",
            memory_total_bytes=total, memory_used_bytes=used, utilisation=None if busy is None else busy / 100,
            temperature_c=None if millidegrees is None else millidegrees / 1000,
        )  # fmt: skip
        index += 1


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
