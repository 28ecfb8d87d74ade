"""Public names of a package that are imported when they are first used: `--help` must not wait for torch."""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`.

    `homes` is a public name → MODULE, or MODULE:NAME if it has another name there, or `MODULE:` for a callable module.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, colon, attribute = homes[name].partition(":")
        found = import_module(module)
        return found if colon and not attribute else getattr(found, attribute or name)

    return __getattr__


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Makes a module callable: `neurexp.run(…)` is a call, and `neurexp.run` stays the module that `python -m` runs.

    A package's attribute of that name is the module as soon as anybody imports it, so a function in its place would
    be there or not, depending on the order of imports.

    Args:
        module: its `__name__`; nothing is done to `__main__`.
        function: what a call of the module calls.
    """
    if module == "__main__":
        return

    class CallableModule(ModuleType):
        @wraps(function)
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

        @property
        def __signature__(self) -> Any:  # of help and completion
            from inspect import signature

            return signature(function)

    sys.modules[module].__class__ = CallableModule
