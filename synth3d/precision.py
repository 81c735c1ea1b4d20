"""Whether bfloat16 is worth asking for on this machine."""

import torch


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether ``device`` computes in bfloat16 rather than emulating it.

    A CPU that has not at least AVX-512 convolves bfloat16 in a plain loop: 85 times slower than
    float32 on an AMD Milan (ResUNet 16-128, tiles of 48³).
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def suited(precision: str, device: torch.device | str) -> str:
    """``precision``, or ``fp32`` where ``bf16`` would be emulated."""
    return "fp32" if precision == "bf16" and not has_bfloat16(device) else precision
