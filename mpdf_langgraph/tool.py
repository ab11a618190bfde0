"""A deliberation as a tool that another agent's model calls with a question."""

from typing import Annotated, Any, cast

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.constants import CONFIG_KEY_CHECKPOINTER
from langgraph.errors import GraphInterrupt
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.pregel.protocol import PregelProtocol
from pydantic import BaseModel, Field, StringConstraints

from mpdf_langgraph.errors import ConfigurationError, DeliberationError
from mpdf_langgraph.models.remote import is_remote, remote_runnable


class _ToolInput(BaseModel):
    """What the calling model fills in. The description is part of its prompt."""

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="The question, complete in itself: the team sees nothing of the conversation."
    )


def as_tool(graph: PregelProtocol[Any, Any, Any, Any], *, name: str, description: str) -> BaseTool:
    """Make a tool of a compiled deliberation, for `create_agent` and whatever else takes tools.

    The tool takes one `question` and returns the winning response. The team sees the text of the
    question and nothing else. The outcome (answer, confidence, votes, usage, ...) is the
    `artifact` of the tool message. The tool works synchronously and asynchronously. A checkpointer
    of the graph's own needs a thread id, and each call begins a new conversation. If every proposal
    failed, the calling model is told so and can go on without an answer. Interrupts and
    configuration errors are raised.

    Args:
        graph: The compiled graph, or a `RemoteGraph` of one on a server.
        name: The tool's name for the calling model.
        description: When to use it, for the calling model.

    Raises:
        ConfigurationError: `graph` is not compiled. The tool raises it too, if it is no
            deliberation, or has a checkpointer and no thread id.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from mpdf_langgraph import create_deliberation
        >>> team = [FakeListChatModel(responses=["Rome"])]
        >>> graph = create_deliberation(team, critic=None).compile()
        >>> tool = as_tool(graph, name="ask_team", description="Ask a team of experts.")
        >>> tool.invoke({"question": "Capital of Italy?"})
        'Rome'
    """
    if not isinstance(graph, PregelProtocol):
        raise ConfigurationError(
            f"as_tool needs a compiled graph, got {type(graph).__name__}: "
            "create_deliberation(...).compile()"
        )
    team: Runnable[Any, Any] = remote_runnable(graph) if is_remote(graph) else graph

    def given(question: str, config: RunnableConfig) -> dict[str, Any]:
        if is_remote(graph):  # it starts anew
            return {"question": question}
        _check_thread(graph, config)
        return {**_nothing_else(), "question": question}

    def ask(question: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        try:
            return _read_output(team.invoke(given(question, config), config))
        except DeliberationError as error:
            raise ToolException(str(error)) from error

    async def aask(question: str, config: RunnableConfig) -> tuple[str, dict[str, Any]]:
        try:
            return _read_output(await team.ainvoke(given(question, config), config))
        except DeliberationError as error:
            raise ToolException(str(error)) from error

    return StructuredTool.from_function(
        ask,
        aask,
        name=name,
        description=description,
        args_schema=_ToolInput,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _nothing_else() -> dict[str, Any]:
    """Return the input that clears what the graph's checkpointer may hold of earlier calls."""
    cleared = dict.fromkeys(("contexts", "reference", "category"))
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES)], **cleared}


def _check_thread(graph: Any, config: RunnableConfig) -> None:
    """Check that a checkpointer of the graph's own has a thread to write to.

    Raises:
        ConfigurationError: It has none.
    """
    known = {**(graph.config or {}).get("configurable", {}), **config.get("configurable", {})}
    own = graph.checkpointer
    if not own or CONFIG_KEY_CHECKPOINTER in known:  # LangGraph lends that of the graph around it
        return
    if own is True:
        raise ConfigurationError(
            "as_tool: the graph was compiled with checkpointer=True, which needs a graph with a "
            "checkpointer around it. Leave it out, as each call begins a new conversation"
        )
    if not known.get("thread_id"):
        raise ConfigurationError(
            "as_tool: the graph has a checkpointer and no thread id. Leave the checkpointer out, "
            'or call the tool with {"configurable": {"thread_id": ...}}'
        )


def _read_output(out: Any) -> tuple[str, dict[str, Any]]:
    state = cast(dict[str, Any], out)
    if asked := state.get("__interrupt__"):  # the graph has a checkpointer of its own
        raise GraphInterrupt(asked)
    if not isinstance(out, dict) or not {"messages", "deliberation"} <= out.keys():
        raise ConfigurationError(
            "as_tool needs the graph of create_deliberation: the output of this one holds no "
            "`deliberation`"
        )
    return str(state["messages"][-1].text), state["deliberation"]
