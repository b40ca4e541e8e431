"""What GPUs promise in their data sheets."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DataSheet:
    """What is promised of a GPU: dense products per second without sparsity, and memory."""

    narrow: float  # in 16 bits; of the V100 float16 alone
    float32: float  # without TF32
    memory: float  # bytes

    def flops(self, dtype: str) -> float:
        """Products per second in a dtype."""
        return self.float32 if dtype == "float32" else self.narrow


DATA_SHEETS = {
    "H200 NVL": DataSheet(835e12, 60e12, 141e9),
    "H200": DataSheet(989e12, 67e12, 141e9),
    "H100 NVL": DataSheet(835e12, 60e12, 94e9),
    "H100 PCIe": DataSheet(756e12, 51e12, 80e9),
    "H100": DataSheet(989e12, 67e12, 80e9),
    "A100": DataSheet(312e12, 19.5e12, 80e9),
    "V100": DataSheet(125e12, 15.7e12, 32e9),
}


def peak_flops(device: torch.device, dtype: str) -> tuple[float, str] | None:
    """What a GPU's data sheet promises in a dtype, and whose; None if none is listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if "MIG" in name:  # a slice of a card
        return None
    listed = next((words for words in DATA_SHEETS if all(w in name for w in words.split())), None)
    return (DATA_SHEETS[listed].flops(dtype), f"data sheet of the {listed}") if listed else None
