"""Processes that are one training, as torchrun would start them on this machine."""

import socket


def around(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process of this machine."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
