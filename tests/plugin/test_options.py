"""The check of options that are numbers."""

import math
import re
from typing import Any

import pytest

from mpdf_langgraph import ConfigurationError
from mpdf_langgraph.options import check_number


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        (-1, {"low": 0}, "must be a number of at least 0, got -1"),
        (0, {"low": 0, "above": True}, "must be a number above 0, got 0"),
        (math.inf, {"low": 0}, "of at least 0, got inf"),
        (math.nan, {"low": 0, "high": 1}, "must be a number in [0, 1], got nan"),
        (0.34, {"low": 0, "high": 1 / 3}, "must be a number in [0, 1/3], got 0.34"),
        (1.5, {"low": 0, "whole": True}, "must be a whole number of at least 0, got 1.5"),
        (True, {"low": 0, "whole": True}, "got True"),
        (10**400, {"low": 0, "whole": True}, "must be a whole number of at least 0, got 1000"),
        ("1", {"low": 0}, "got '1'"),
        (None, {"low": 0}, "got None"),
        (2, {"low": 0, "high": 1, "optional": True}, "must be a number in [0, 1] or None, got 2"),
    ],
)
def test_what_is_refused(value: Any, rule: dict[str, Any], expected: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^bar {re.escape(expected)}$|{re.escape(expected)}"
    ):
        check_number("bar", value, **rule)


def is_accepted(value: Any, **rule: Any) -> bool:
    try:
        check_number("bar", value, **rule)
    except ConfigurationError:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "rule", "beyond"),
    [
        (0, {"low": 0}, -1),
        (1 / 3, {"low": 0, "high": 1 / 3}, 0.34),
        (5, {"low": 1, "whole": True}, 5.5),
        (None, {"low": 0, "optional": True}, "none"),
    ],
)
def test_what_is_accepted(value: Any, rule: dict[str, Any], beyond: Any) -> None:
    assert is_accepted(value, **rule)
    assert not is_accepted(beyond, **rule)
