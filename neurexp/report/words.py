"""Numbers in sentences. Knows no experiment."""


def number_of(count: int, what: str) -> str:
    """A number of things: “1 token”, “8,192 tokens”. `what` is a noun in the singular with a regular plural."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")
