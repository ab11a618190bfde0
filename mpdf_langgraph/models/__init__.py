"""Models: vLLM endpoints, recorded answers, graphs on a LangGraph server."""
