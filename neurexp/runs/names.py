"""Names of runs that are compared: made of what differs between them.

Uses the runs' summaries only; knows no experiment.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from neurexp.errors import printable

SHOWN = 3  # differences in a name
LONGEST = 48  # characters of a value in a name
NOT_COMPARED = {"experiment.control"}  # a run's own neurons are compared, never its control's
# Options that a run's title may show
OF_THE_TITLE = tuple(f"dataset.{one}" for one in ("source", "name", "path", "subset", "split", "text_column"))
# Facts that have no effect on results, or repeat others
LEFT_OUT = {"command_line", "working_folder", "reused", "resumed", "git_diff", "skipped"}
# Facts that distinguish runs with equal options, the most useful first
FIRST = ("model_revision", "model_hash", "tokenizer_hash", "token_hash", "plugin_hash", "git_commit", "git_dirty")
# Facts that do not follow from the options
CIRCUMSTANCES = ("git_commit", "git_dirty", "code_hash", "plugin_hash", "device_kind", "versions.")


def names_of(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each run, all distinct: its title, and the options in which the runs differ.

    The title has the experiment where runs are of several. Runs with equal options are distinguished by other facts
    (weights, text, code, versions), or else by their number.
    """
    several = len({summary.get("experiment") for summary in summaries}) > 1
    titles = [[one["experiment"], one["setting"]] if several else [one["setting"]] for one in summaries]
    return _distinct(titles, summaries)


def labels_of(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """The names without what all runs have in common, for figures whose foot says that."""
    parts = [(one.get("experiment"), one["setting"]) for one in summaries]
    titles = [
        [str(part) for part, others in zip(one, zip(*parts, strict=True), strict=True) if len(set(others)) > 1]
        for one in parts
    ]
    return _distinct(titles, summaries)


def common_to(summaries: Sequence[dict[str, Any]]) -> str:
    """What `labels_of` leaves out, because all runs have it in common."""
    parts = zip(*((one.get("experiment"), one["setting"]) for one in summaries), strict=True)
    return printable(", ".join(str(values[0]) for values in parts if len(set(values)) == 1))


def _distinct(titles: Sequence[list[str]], summaries: Sequence[dict[str, Any]]) -> list[str]:
    options = [summary.get("options") or {} for summary in summaries]
    different = [name for name in _differing_options(summaries) if not _is_in_titles(name, options, summaries)]
    # They reach figures, which cannot show an escape character
    names = [printable(", ".join([*title, *pairs(one, different)])) for title, one in zip(titles, options, strict=True)]
    facts = [flat_facts(summary) for summary in summaries]
    for name in {name for name in names if names.count(name) > 1}:
        same = [index for index, other in enumerate(names) if other == name]
        known = _different([facts[index] for index in same])
        known.sort(key=lambda fact: FIRST.index(fact) if fact in FIRST else len(FIRST))
        for index in same:
            names[index] = ", ".join(filter(None, [name, *pairs(facts[index], known[:1])]))
    numbered = [f"{name} (run {index})" if name else f"run {index}" for index, name in enumerate(names)]
    return [name if name and names.count(name) == 1 else other for name, other in zip(names, numbered, strict=True)]


def _differing_options(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Options in which runs differ. Those of an experiment are compared among its own runs only."""
    options = [summary.get("options") or {} for summary in summaries]
    different = _different(options)
    alike: dict[str, list[dict[str, Any]]] = {}
    for summary, one in zip(summaries, options, strict=True):
        alike.setdefault(str(summary.get("experiment")), []).append(one)
    own = {name for one in alike.values() for name in _different(one)}
    different = [name for name in different if name not in NOT_COMPARED]
    return [name for name in different if name in own or not name.startswith("experiment.")]


def circumstances(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Code, versions and devices in which the runs differ: `NAME value | value`."""
    facts = [flat_facts(summary) for summary in summaries]
    names = [name for name in _different(facts) if name.startswith(CIRCUMSTANCES)]
    return [f"{name} " + " | ".join(_short(one.get(name)) for one in facts) for name in names]


def flat_facts(summary: dict[str, Any]) -> dict[str, Any]:
    """The provenance in a run's summary, with dotted names."""

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from walk(f"{prefix}{name}.", inner)
            elif name not in LEFT_OUT:
                yield prefix + name, inner

    provenance = summary.get("provenance")
    return dict(walk("", provenance)) if isinstance(provenance, dict) else {}


def _different(tables: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for table in tables for name in table)
    return [name for name in names if len({str(table.get(name)) for table in tables}) > 1]


def _is_in_titles(name: str, options: Sequence[dict[str, Any]], summaries: Sequence[dict[str, Any]]) -> bool:
    """Whether the runs' titles already show this option: equal parts of the title mean equal values."""
    if not (name.startswith("model.") or name in OF_THE_TITLE):
        return False
    values: dict[str, set[str]] = {}
    for one, summary in zip(options, summaries, strict=True):
        dataset = str(summary.get("dataset", ""))
        part = summary["setting"].removesuffix(f" on {dataset}") if name.startswith("model.") else dataset
        values.setdefault(part, set()).add(str(one.get(name)))
    return all(len(found) == 1 for found in values.values())


def pairs(table: dict[str, Any], names: Sequence[str]) -> list[str]:
    """`NAME=VALUE` of the first few options or facts, and how many more there are."""
    told = [f"{name}={_short(table.get(name))}" for name in names[:SHOWN]]
    return told + ([f"and {len(names) - SHOWN} more options"] if len(names) > SHOWN else [])


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    if len(text) >= 40 and all(one in "0123456789abcdef" for one in text):  # a hash
        return text[:8]
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
