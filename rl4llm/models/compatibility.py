"""Checks that a critic can read what the policy writes, made before any weight is loaded."""

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.checks import UsageError
from rl4llm.models.configuration import check_vocabulary, context_of
from rl4llm.models.policy import ModelSource
from rl4llm.models.sources import config_of, describe, tokenizer_of


def check_compatible(policy: ModelSource, critic: ModelSource) -> None:
    """Raise unless the critic understands the policy's token ids.

    The critic must have an embedding for every id of the policy's tokenizer, and ids that both tokenizers know must
    stand for the same token. A critic object without a tokenizer of its own is compared by its number of ids alone.

    Args:
        policy: What writes the responses.
        critic: What reads them.

    Raises:
        UsageError: Naming both models and the difference.
    """
    tokenizer = tokenizer_of(policy)
    whose = f"the tokenizer of the policy, {describe(policy)},"
    check_vocabulary(config_of(critic), tokenizer, describe(critic), whose)
    if isinstance(critic, PreTrainedModel) and not critic.name_or_path:
        return
    differing = _first_difference(tokenizer, tokenizer_of(critic))
    if differing is not None:
        ident, written, read = differing
        raise UsageError(
            f"{describe(critic)} reads id {ident} as {read!r}, the policy, {describe(policy)}, writes it for "
            f"{written!r}; take critics with the policy's tokenizer."
        )


def _first_difference(policy: Tokenizer, critic: Tokenizer) -> tuple[int, str, str] | None:
    written, read = _by_id(policy), _by_id(critic)
    common = sorted(written.keys() & read.keys())
    return next(((i, written[i], read[i]) for i in common if written[i] != read[i]), None)


def _by_id(tokenizer: Tokenizer) -> dict[int, str]:
    return {ident: token for token, ident in tokenizer.get_vocab().items()}


def check_context(source: ModelSource, tokens: int, role: str = "policy") -> None:
    """Raise if prompt and response together may be longer than what the model was made for.

    Args:
        source: The model.
        tokens: Longest prompt and response together.
        role: Of the model, in the message.

    Raises:
        UsageError: Naming the model, its context and what is asked of it.
    """
    context = context_of(config_of(source))
    if context is not None and tokens > context:
        raise UsageError(
            f"the {role}, {describe(source)}, has a context of {context} tokens, but prompt and response may take "
            f"{tokens}; lower max_response_tokens, shorten the prompts, or take another model."
        )
