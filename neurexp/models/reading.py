"""How transformers is told to read a location: from a folder or a GGUF file, without code, with errors in one line.

Knows nothing of what is read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from neurexp.errors import UserError, one_line
from neurexp.models import gguf_file
from neurexp.models.locations import GGUF, Location

SAFE = {"trust_remote_code": False}  # always given: otherwise transformers asks on the terminal


@contextmanager
def source_of(location: Location) -> Iterator[dict[str, Any]]:
    """The arguments of transformers' `from_pretrained` that name a location whose files are here."""
    if not location.is_gguf:
        yield {"pretrained_model_name_or_path": location.path, **SAFE}
        return
    with gguf_file.alone(Path(location.path)) as source:
        yield source | SAFE


def guarded(name: str, load: Callable[[], Any], what: str = "name") -> Any:
    """Runs one of transformers' loaders. Its errors about a damaged or incomplete folder become one line."""
    try:
        return load()
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"model.{what}={name}: a weight file is damaged ({one_line(error)}); fetch it again") from error
    except Exception as error:  # a damaged folder raises whatever reads it first
        here = "this file" if name.lower().endswith(GGUF) else "this folder"
        remote = name != "mini" and here == "this folder" and not Path(name).expanduser().is_dir()
        done = f"loaded from {'the Hub' if remote else here}" if what != "architecture" else "built"
        todo = "correct its values" if what == "architecture" else f"fetch it again, or give another model.{what}"
        raise UserError(f"model.{what}={name}: cannot be {done} ({one_line(error)}); {todo}") from error
