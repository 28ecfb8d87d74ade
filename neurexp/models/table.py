"""Tables of the families and their sites, for docs/models.md and the README, made from `models.families`.

`python -m neurexp.models.table` prints both. Knows no model.
"""

from neurexp.models.families import FAMILIES, SITES, TITLES, Address, Family


def families_in_words(experts: bool = False) -> str:
    """The known families by the names that people use; the mixtures of experts if `experts`."""
    return ", ".join(TITLES[name] for name, family in FAMILIES.items() if family.experts is experts)


def sites_table() -> str:
    """A Markdown table: families in rows, sites in columns, and the place in a block in each cell.

    Families with the same places share a row.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, family in FAMILIES.items():
        rows.setdefault(tuple(_cell(family, site) for site in SITES), []).append(name)
    lines = ["| family (`model_type`) | blocks | " + " | ".join(SITES) + " |", "| --- " * (len(SITES) + 2) + "|"]
    for cells, names in rows.items():
        titles = ", ".join(f"{TITLES[name]} (`{name}`)" for name in names)
        lines.append(f"| {titles} | `{FAMILIES[names[0]].blocks}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(family: Family, site: str) -> str:
    address = family.sites.get(site)
    return "–" if address is None else f"`{address}`" + _condition(address)


def _condition(address: Address) -> str:
    """Where a config must have certain values for the site to exist."""
    conditions = " and ".join(f"`{name}` is {str(value).lower()}" for name, value in address.only)
    return f" if {conditions}" if conditions else ""


if __name__ == "__main__":
    print(f"{families_in_words()}\n\n{families_in_words(experts=True)}\n\n{sites_table()}")
