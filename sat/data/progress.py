"""The type of a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[..., Iterable[Any]]
"""wraps an iterable and shows how far it got, as tqdm does; `iter` shows nothing"""
