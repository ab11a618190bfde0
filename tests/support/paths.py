"""Where things are: the repository, and the public data beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Public data for tests and measurements. It may be absent.
DATA = ROOT.parent / "shared" / "data"
