"""Deliberating LLM agents as a LangGraph plugin: they learn when to persist, refine, concede."""

from mpdf_langgraph.agents import Agent
from mpdf_langgraph.answers.choice_answer import ChoiceAnswer
from mpdf_langgraph.answers.code_answer import CodeAnswer, CodeTests
from mpdf_langgraph.answers.math_answer import MathAnswer
from mpdf_langgraph.answers.sandbox import Sandbox
from mpdf_langgraph.answers.schema import AnswerSchema
from mpdf_langgraph.answers.structured_answer import StructuredAnswer
from mpdf_langgraph.answers.text_answer import TextAnswer
from mpdf_langgraph.calibration import Calibration
from mpdf_langgraph.consensus import LogOdds, Vote
from mpdf_langgraph.critic import Critic
from mpdf_langgraph.errors import (
    ConfigurationError,
    DeliberationError,
    EndpointError,
    EqualityError,
    ModelOutputError,
    MPDFError,
    RouterError,
    SandboxError,
    TraceError,
)
from mpdf_langgraph.expected_gain import load_expected_gain
from mpdf_langgraph.fork import force_actions
from mpdf_langgraph.graph import create_deliberation
from mpdf_langgraph.learned_consensus import LearnedConsensus
from mpdf_langgraph.learned_router import load_router
from mpdf_langgraph.models.endpoints import EndpointStatus, check_endpoint, vllm_chat_model
from mpdf_langgraph.models.recorded import RecordedChatModel
from mpdf_langgraph.nodes.outcome import merge_deliberations
from mpdf_langgraph.nodes.settings import Unsure
from mpdf_langgraph.profile_critic import load_profile_critic
from mpdf_langgraph.prompts import Prompts
from mpdf_langgraph.recruiting import AdaptiveRecruiting, load_recruiting
from mpdf_langgraph.router import Router, ThresholdRouter
from mpdf_langgraph.state import (
    Consensus,
    Critique,
    Failure,
    Intervention,
    LogprobSummary,
    Observation,
    Profile,
    Recruit,
    Response,
    Turn,
    Usage,
)
from mpdf_langgraph.tool import as_tool
from mpdf_langgraph.traces.reader import TraceReader
from mpdf_langgraph.traces.records import Episode
from mpdf_langgraph.traces.writer import TraceWriter

__all__ = [
    "AdaptiveRecruiting",
    "Agent",
    "AnswerSchema",
    "Calibration",
    "ChoiceAnswer",
    "CodeAnswer",
    "CodeTests",
    "ConfigurationError",
    "Consensus",
    "Critic",
    "Critique",
    "DeliberationError",
    "EndpointError",
    "EndpointStatus",
    "Episode",
    "EqualityError",
    "Failure",
    "Intervention",
    "LearnedConsensus",
    "LogOdds",
    "LogprobSummary",
    "MPDFError",
    "MathAnswer",
    "ModelOutputError",
    "Observation",
    "Profile",
    "Prompts",
    "RecordedChatModel",
    "Recruit",
    "Response",
    "Router",
    "RouterError",
    "Sandbox",
    "SandboxError",
    "StructuredAnswer",
    "TextAnswer",
    "ThresholdRouter",
    "TraceError",
    "TraceReader",
    "TraceWriter",
    "Turn",
    "Unsure",
    "Usage",
    "Vote",
    "as_tool",
    "check_endpoint",
    "create_deliberation",
    "force_actions",
    "load_expected_gain",
    "load_profile_critic",
    "load_recruiting",
    "load_router",
    "merge_deliberations",
    "vllm_chat_model",
]
