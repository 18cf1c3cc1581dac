"""Readings through the real NVML client against a driver library built here, and from files laid out as amdgpu's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.gpu import GpuReading, read_gpus

NVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } rates_t;
int nvmlInitWithFlags(unsigned int f) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "planted"; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **h) {
  *h = (void *)(long)(i + 1);
  return i == 1 ? 15 : 0; /* the second has fallen off the bus: NVML_ERROR_GPU_IS_LOST */
}
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) {
  m->total = 85899345920ULL; m->used = 12884901888ULL; m->free = m->total - m->used;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *h, rates_t *r) { r->gpu = 87; r->memory = 3; return (long)h == 3 ? 3 : 0; }
int nvmlDeviceGetTemperature(void *h, unsigned int s, unsigned int *t) { *t = 64; return 0; }
int nvmlDeviceGetTemperatureV(void *h, void *t) { return 13; }
int nvmlDeviceGetName(void *h, char *name, unsigned int n) { strncpy(name, "NVIDIA Planted", n); return 0; }
"""
READ = "import json, dataclasses, daemon.gpu as g; print(json.dumps([dataclasses.asdict(r) for r in g.read_gpus()]))"


def test_nvidia_cards_are_read_through_nvml_and_a_lost_one_is_left_out(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a driver library with")
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", READ], env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, third = json.loads(done.stdout)
    assert first == {
        "index": 0, "name": "NVIDIA Planted", "memory_total_bytes": 80 * 2**30, "memory_used_bytes": 12 * 2**30,
        "utilisation": 0.87, "temperature_c": 64.0,
    }  # fmt: skip
    assert (third["index"], third["utilisation"]) == (2, None)


def amd_card(sysfs: Path, number: int, **files: str) -> None:
    device = sysfs / f"card{number}" / "device"
    (device / "hwmon" / "hwmon3").mkdir(parents=True)
    for name, text in {"vendor": "0x1002", **files}.items():
        (device / name.replace("__", "/")).write_text(text + "\n")


def test_amd_cards_are_read_from_the_kernels_files_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    amd_card(tmp_path, 10, mem_info_vram_total="200", mem_info_vram_used="50", product_name="Instinct MI300X")
    amd_card(
        tmp_path, 2, mem_info_vram_total="100", mem_info_vram_used="10", gpu_busy_percent="42", device="0x744c",
        hwmon__hwmon3__temp1_input="71500",
    )  # fmt: skip
    amd_card(tmp_path, 3, vendor="0x8086")  # another maker's
    amd_card(tmp_path, 4)  # held by another driver: no memory to be had
    (tmp_path / "card2-DP-1").mkdir()  # an outlet is not a card
    first, second = read_gpus(tmp_path)
    assert first == GpuReading(
        index=0, name="AMD 0x744c", memory_total_bytes=100, memory_used_bytes=10, utilisation=0.42, temperature_c=71.5
    )
    assert second == GpuReading(
        index=1,
        name="Instinct MI300X",
        memory_total_bytes=200,
        memory_used_bytes=50,
        utilisation=None,
        temperature_c=None,
    )


def test_a_machine_without_a_card_has_no_reading(tmp_path: Path) -> None:
    assert [r for r in read_gpus(tmp_path) if r.name.startswith("AMD")] == []
