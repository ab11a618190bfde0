"""Whether a failed call is tried again, and when."""

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from langchain_core.runnables import RunnableBinding
from langgraph.errors import GraphRecursionError
from pydantic import ValidationError

from mpdf_langgraph.errors import ConfigurationError, EndpointError, OutOfTokensError, list_causes

#: The longest pause, in seconds, that is chosen here.
LONGEST_PAUSE = 8.0
#: The longest pause, in seconds, that a server may ask for. A longer one is cut to it.
LONGEST_RETRY_AFTER = 60.0
_SHORTEST_PAUSE = 0.25
_PASSING_STATUS = {408, 409, 425, 429}
_HTTP_PACKAGES = {"aiohttp", "httpcore", "httpcore2", "httpx", "httpx2", "requests", "urllib3"}


def backoff(failures: int, longest: float) -> float:
    """Return a pause in seconds that doubles with every failure, up to `longest`.

    It is drawn between half and all of that, so that many clients do not come back at once.
    """
    pause = _SHORTEST_PAUSE * 2.0 ** min(failures, 30)
    return min(longest, pause) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a reply's headers ask to wait, at most `LONGEST_RETRY_AFTER`.

    The header holds seconds or a date (RFC 9110, section 10.2.3). OpenAI's servers send
    milliseconds in a header of their own. None: the reply says nothing that can be read.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    value = headers.get("retry-after")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and value is not None:
        try:
            seconds = max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError, OSError):
            return None
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def pause_before_retry(error: BaseException, failures: int) -> float:
    """Return the pause in seconds after so many failures. `Retry-After` comes on top of it."""
    for one in (error, *list_causes(error)):
        headers = getattr(getattr(one, "response", None), "headers", None)
        if isinstance(headers, Mapping) and (told := retry_after(headers)) is not None:
            return told + backoff(failures, LONGEST_PAUSE)
    return backoff(failures, LONGEST_PAUSE)


def is_transient(error: Exception) -> bool:
    """Tell whether a new try could help. It cannot if the request or the endpoint is wrong."""
    status = getattr(error, "status_code", None)
    if status is None:  # httpx keeps it in the response
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING_STATUS
    if isinstance(error, TypeError) and "keyword argument" in str(error):
        return False
    if isinstance(error, ValidationError) and "extra_forbidden" in str(error):  # Google's client
        return False
    hopeless = ConfigurationError | EndpointError | OutOfTokensError
    if any(isinstance(cause, EndpointError) for cause in list_causes(error)):  # wrapped by a client
        return False
    return not isinstance(error, hopeless | NotImplementedError | GraphRecursionError)


def _client_retries(runnable: Any) -> bool:
    """Tell whether a model's client tries failed requests again. By default most do."""
    while isinstance(runnable, RunnableBinding):
        runnable = runnable.bound
    retries = getattr(runnable, "max_retries", 0)
    return retries is None or (isinstance(retries, int) and retries > 0)


def _is_of_http(error: BaseException) -> bool:
    """Tell whether a request failed, and not what was made of its reply."""
    return any(
        getattr(one, "status_code", None) is not None
        or type(one).__module__.partition(".")[0] in _HTTP_PACKAGES
        for one in (error, *list_causes(error))
    )


def is_worth_retrying(error: Exception, runnable: Any) -> bool:
    """Tell whether a failed call to `runnable` is tried again here.

    Requests are retried in one layer. If the client retries them, this one does not.
    """
    return is_transient(error) and not (_is_of_http(error) and _client_retries(runnable))
