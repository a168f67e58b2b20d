"""Whose fault a fault is: predictions and truth go through the same readers, so what these say is told whose it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import UserError


@contextmanager
def blamed_on(whose: str) -> Iterator[None]:
    """The message of a UserError raised inside begins with `whose`; its kind stays."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{whose}: {error}") from error
