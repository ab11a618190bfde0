"""Fixtures of several test files, and what holds for all of them."""

import re
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# A test must not fail on a slow machine.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

#: A test that lacks one of these packages says so in its reason: "apt-get install chromium".
SYSTEM_PACKAGE = re.compile(r"apt(?:-get)? install (bubblewrap|chromium|postgresql)")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the very last line which tests were skipped and how to get what they need."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped:
        reporter.write_line(skip_line([str(report.longrepr[2]) for report in skipped]))


def skip_line(reasons: list[str]) -> str:
    """Return one line about skipped tests, given the reason of each."""
    found = [SYSTEM_PACKAGE.search(reason) for reason in reasons]
    missing = Counter(match.group(1) for match in found if match)
    parts = [f"{count} without {package}" for package, count in sorted(missing.items())]
    if others := len(reasons) - missing.total():
        parts.append(f"{others} for other reasons (`pytest -rs` shows them)")
    line = f"Skipped {len(reasons)} tests: {', '.join(parts)}."
    return f"{line} Install what is missing: `make system-packages`." if missing else line


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the wall clock ahead by some seconds: time passes, and no test has to be quick."""
    real, ahead = time.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    return forward
