"""Graphs that run on a LangGraph server, used as if they were compiled here."""

from typing import Any, TypeGuard

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.errors import GraphInterrupt
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from pydantic import TypeAdapter

from mpdf_langgraph.errors import DeliberationError, EndpointError

_MESSAGE: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)
_NO_RESUME = (
    "the remote graph was interrupted. It cannot be resumed, as every call starts it anew. "
    "Interrupt in a graph that is compiled here, or use interrupt_when"
)


def is_remote(runnable: Runnable[Any, Any]) -> TypeGuard[PregelProtocol[Any, Any, Any, Any]]:
    """Tell whether a graph runs on a server (`RemoteGraph`)."""
    return isinstance(runnable, PregelProtocol) and not isinstance(runnable, Pregel)


def remote_runnable(graph: PregelProtocol[Any, Any, Any, Any]) -> Runnable[Any, Any]:
    """Return a remote graph that starts anew with every call and returns messages, not JSON.

    A call raises:
        DeliberationError: A deliberation there raised it.
        EndpointError: It was interrupted.
    """

    def drop_thread(config: RunnableConfig) -> RunnableConfig:
        # On the caller's thread, the server would run all calls as turns of one conversation.
        given = config.get("configurable", {})
        return {**config, "configurable": {k: v for k, v in given.items() if k != "thread_id"}}

    def parse_messages(state: Any) -> Any:
        if not isinstance(state, dict) or not isinstance(state.get("messages"), list):
            return state
        # `convert_to_messages` would lose the usage.
        return {**state, "messages": [_MESSAGE.validate_python(m) for m in state["messages"]]}

    def translate_error(error: Exception) -> None:
        if isinstance(error, GraphInterrupt):
            raise EndpointError(_NO_RESUME) from error
        told = error.args[0] if error.args else None
        if isinstance(told, dict) and told.get("error") == DeliberationError.__name__:
            raise DeliberationError(str(told.get("message"))) from error

    def ask(given: Any, config: RunnableConfig) -> Any:
        try:
            return parse_messages(graph.invoke(given, drop_thread(config)))
        except Exception as error:
            translate_error(error)
            raise

    async def aask(given: Any, config: RunnableConfig) -> Any:
        try:
            return parse_messages(await graph.ainvoke(given, drop_thread(config)))
        except Exception as error:
            translate_error(error)
            raise

    return RunnableLambda(ask, aask)
