"""The end of a process that logs to W&B, whose service ends behind what the owner does at exit."""

import atexit
import weakref
from collections.abc import Callable
from typing import Any

from tunrex_jax_monitor.host.guard import attempt

_ATTRIBUTE = "_tunrex_jax_monitor"


def call_at_the_end(method: Callable[[], object]) -> None:
    """Call a method of an object that lives then, when the process ends and before W&B does; it keeps nothing alive."""
    import wandb

    service, _ = attempt(lambda: wandb.setup().ensure_service())
    teardown = getattr(service, "teardown", None)
    methods: set[weakref.WeakMethod[Any]] = getattr(teardown, _ATTRIBUTE, set())  # one service has many runs
    if teardown is None:
        atexit.register(_call_all, methods)
    elif not hasattr(teardown, _ATTRIBUTE):
        service.teardown = _calling_first(methods, teardown)  # type: ignore[method-assign, union-attr]
    methods.add(weakref.WeakMethod(method, methods.discard))


def _calling_first(methods: set[weakref.WeakMethod[Any]], teardown: Callable[..., Any]) -> Callable[..., Any]:
    def call_and_end(*args: Any, **kwargs: Any) -> Any:
        _call_all(methods)
        return teardown(*args, **kwargs)

    setattr(call_and_end, _ATTRIBUTE, methods)
    return call_and_end


def _call_all(methods: set[weakref.WeakMethod[Any]]) -> None:
    for method in [reference() for reference in list(methods)]:
        if method is not None:
            attempt(method)
