"""Packages that need not be there: loaded where they are used, with the line that installs them where they are not."""

from importlib import import_module
from typing import Any


def load(module: str, extra: str) -> Any:
    """Return a module of an optional package.

    Args:
      module: its full name.
      extra: which extra of this package installs it.

    Raises:
      ImportError: it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{package}: got {error}, allowed: an installed package. pip install 'tunrex-jax-monitor[{extra}]'"
        ) from error
