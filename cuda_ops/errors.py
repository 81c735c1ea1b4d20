"""What the rolling operator refuses by name."""


class KernelError(RuntimeError):
    """The fused kernel cannot be used here; the sentence says what to do."""
