"""The line of a router's report that tells its gate. It needs no torch."""

from pathlib import Path

from training.collect.files import atomic_write

GATE = "**Gate:"


def describe_gate(gate: str, why: str) -> str:
    """Return the report's line of the gate and its reason."""
    return f"{GATE} {gate}** ({why})."


def replace_gate(folder: Path, gate: str, why: str) -> None:
    """Put another gate into a router's report, if there is one, and leave the rest of it."""
    path = folder / "report.md"
    if not path.exists():
        return
    lines = [
        describe_gate(gate, why) if line.startswith(GATE) else line
        for line in path.read_text().split("\n")
    ]
    with atomic_write(path) as draft:
        draft.write_text("\n".join(lines))
