"""Every error this package raises on its own account, under one base class."""


class MPDFError(Exception):
    """Base class of all errors raised by mpdf_langgraph."""


class ConfigurationError(MPDFError, ValueError):
    """An option is wrong; the message says which one and what to change."""


class EndpointError(MPDFError, RuntimeError):
    """A model endpoint cannot be used; the message says what is wrong with it."""


class ModelOutputError(MPDFError, ValueError):
    """A model returned something that cannot be used as a response."""


class DeliberationError(MPDFError, RuntimeError):
    """A deliberation could not produce anything, e.g. every proposal failed."""


class TraceError(MPDFError, ValueError):
    """A trace record or file does not have the documented form."""
