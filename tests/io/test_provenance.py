"""The hash of a plugin's code: it covers what the plugin comes from, and costs nothing where there is no plugin."""

import importlib
import sys
from pathlib import Path

import pytest

from neurexp.experiments.token_length import TokenLength
from neurexp.io import provenance


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports the plugin in `tmp_path` afresh, and hashes it."""
    (tmp_path / "of_a_user.py").write_text(
        "import beside_it\nfrom neurexp.experiments.token_length import TokenLength\nclass Mine(TokenLength): pass\n"
    )
    (tmp_path / "beside_it.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def hashed() -> str | None:
        for name in ("of_a_user", "beside_it"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return provenance.hash_of_plugin(importlib.import_module("of_a_user").Mine)

    yield hashed
    for name in ("of_a_user", "beside_it"):
        sys.modules.pop(name, None)


def test_the_hash_follows_the_plugin_and_the_modules_beside_it(plugin, tmp_path):
    before = plugin()
    assert before is not None
    assert plugin() == before
    (tmp_path / "beside_it.py").write_text("value = 22\n")
    after = plugin()
    assert after not in (None, before)
    (tmp_path / "of_a_user.py").write_text((tmp_path / "of_a_user.py").read_text() + "# more\n")
    assert plugin() not in (None, before, after)


def test_our_own_experiments_have_none_and_no_module_is_looked_at(monkeypatch):
    class Untouched(dict):
        def items(self):
            raise AssertionError("walks the modules")

    monkeypatch.setattr(provenance.sys, "modules", Untouched(sys.modules))
    assert provenance.hash_of_plugin(TokenLength) is None
