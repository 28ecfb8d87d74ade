"""The typed config, its checks, and one line for each mistake in it. Imports nothing heavy."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.config.mistakes import explain
    from neurexp.config.schema import Config, DatasetConfig, ModelConfig, checked, register_schema, typed_options

__all__ = ["Config", "DatasetConfig", "ModelConfig", "checked", "explain", "register_schema", "typed_options"]

_HOMES = {
    "Config": "neurexp.config.schema",
    "DatasetConfig": "neurexp.config.schema",
    "ModelConfig": "neurexp.config.schema",
    "checked": "neurexp.config.schema",
    "explain": "neurexp.config.mistakes",
    "register_schema": "neurexp.config.schema",
    "typed_options": "neurexp.config.schema",
}
__getattr__ = lazy(__name__, _HOMES)
