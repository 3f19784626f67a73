"""The processes of the Ray that the tests share."""

import contextlib

import psutil

__all__ = ["ray_processes"]


def ray_processes(title: str) -> list[psutil.Process]:
    """Those with this in their title; one that ends while it is looked at is none of them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            shown = " ".join(process.cmdline())
            if shown.startswith("ray::") and title in shown:
                found.append(process)
    return found
