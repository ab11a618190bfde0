"""Every prompt of the plugin, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """Templates for `str.format`; an agent may bring its own set.

    The three tasks share one conversation prefix, so that an inference server's
    prefix cache serves all of them:

    * propose: ``[system] user(propose)``
    * refine: ``[system] user(propose) assistant(own response) user(refine)``
    * critique: the conversation that produced the response (one of the two above), then
      ``assistant(response) user(critique)``

    The system message holds the agent's own `system_prompt` and its private context for
    the question, and is left out when both are empty.

    Attributes:
        context: How private context is introduced. Fields: ``{context}``.
        propose: Asks for a first answer. Fields: ``{question}``, ``{instructions}`` (how the
            answer schema wants the answer to be written).
        refine: Asks for a new answer in view of the peers. Fields: ``{question}``, ``{own}``,
            ``{peers}`` (the rendered peers, one after the other), ``{instructions}``.
        peer: One peer's response inside ``{peers}``. Fields: ``{name}``, ``{response}``.
        critique: Asks for a yes/no verdict on a response. Fields: ``{question}``,
            ``{response}``.
        no_response: Stands for the own response of an agent whose proposal failed.
    """

    context: str = "What only you know about this question:\n{context}"
    propose: str = "{question}\n\n{instructions}"
    refine: str = (
        "Other participants, who may know things that you do not, answered the same question:\n\n"
        "{peers}\n\n"
        "Compare their reasoning with yours. Keep what is well supported, correct what is not, "
        "and write your complete solution anew. {instructions}"
    )
    peer: str = "--- {name} ---\n{response}"
    critique: str = "Is the final answer of that solution correct? Answer with one word, yes or no."
    no_response: str = "I could not answer yet."
