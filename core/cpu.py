"""What work costs on a shared machine: CPU seconds, which other programs do not change."""

import os


def cpu_seconds() -> float:
    """User and system time of this process, and of the processes that it started and has seen end."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
