"""How the small model is asked: training and serving both build their text from these prompts."""

from mpdf_langgraph.prompts import Prompts

PROMPTS = Prompts(
    context="{context}",
    propose="{question}",
    refine="Others say:\n{peers}\nSolve it again.",
    peer="* {response}",
    critique="Is that right?",
    critique_reasoning="Check it.",
    no_response="No answer.",
)

PROPOSE_TEMPERATURE, REFINE_TEMPERATURE = 1.2, 0.6
"""Proposals are sampled warm enough for plain questions to be hard, refinements cooler."""

Message = dict[str, str]


def solve_messages(question: str, context: str) -> list[Message]:
    """The conversation that asks for a first solution. Private notes are its system message."""
    system = [{"role": "system", "content": PROMPTS.context.format(context=context)}]
    user = {"role": "user", "content": PROMPTS.propose.format(question=question, instructions="")}
    return [*(system if context else []), user]


def refine_messages(question: str, context: str, own: str, peers: list[str]) -> list[Message]:
    """The conversation that asks for a new solution in view of the peers' solutions."""
    own = own or PROMPTS.no_response
    rendered = "\n".join(PROMPTS.peer.format(name="", response=peer) for peer in peers)
    request = PROMPTS.refine.format(question=question, own=own, peers=rendered, instructions="")
    return [
        *solve_messages(question, context),
        {"role": "assistant", "content": own},
        {"role": "user", "content": request},
    ]


def critique_messages(
    conversation: list[Message], question: str, response: str, reasoning: bool = False
) -> list[Message]:
    """The conversation that produced a response, and the question whether it is right.

    The model answers with `yes` or `no`. With `reasoning` it first writes the solution anew.
    """
    prompt = PROMPTS.critique_reasoning if reasoning else PROMPTS.critique
    request = prompt.format(question=question, response=response)
    return [
        *conversation,
        {"role": "assistant", "content": response},
        {"role": "user", "content": request},
    ]
