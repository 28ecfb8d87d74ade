"""Files, the Hub, what is kept between runs, and where a result comes from. Knows no model and no experiment."""

from typing import TYPE_CHECKING

from neurexp.lazy import lazy

if TYPE_CHECKING:
    from neurexp.io.files import read_table, whole_file, write_json, write_table, write_tensors
    from neurexp.io.store import Entry, Store

__all__ = ["Entry", "Store", "read_table", "whole_file", "write_json", "write_table", "write_tensors"]

_HOMES = {
    "Entry": "neurexp.io.store",
    "Store": "neurexp.io.store",
    "read_table": "neurexp.io.files",
    "whole_file": "neurexp.io.files",
    "write_json": "neurexp.io.files",
    "write_table": "neurexp.io.files",
    "write_tensors": "neurexp.io.files",
}
__getattr__ = lazy(__name__, _HOMES)
