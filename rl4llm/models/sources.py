"""Configuration, tokenizer and backbone of anything that a model slot accepts."""

import copy

from transformers import PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.models.configuration import check_vocabulary, load_config, load_tokenizer
from rl4llm.models.loading import load_headless, without_dropout
from rl4llm.models.policy import ModelSource, Policy, tokenizer_beside
from rl4llm.models.pretrained import as_pretrained
from rl4llm.models.weights import check_files, check_finite


def describe(source: ModelSource) -> str:
    """Describe the model for a message."""
    if isinstance(source, Policy):
        return describe(source.model)
    if isinstance(source, PreTrainedModel):
        return f"model '{source.name_or_path or type(source).__name__}'"
    return f"model '{as_pretrained(source).name}'"


def config_of(source: ModelSource) -> PreTrainedConfig:
    """Return the model's configuration without reading weights."""
    if isinstance(source, Policy):
        return source.model.config
    return source.config if isinstance(source, PreTrainedModel) else load_config(as_pretrained(source))


def tokenizer_of(source: ModelSource) -> Tokenizer:
    """Return the model's tokenizer without reading weights."""
    if isinstance(source, Policy):
        return source.tokenizer
    if isinstance(source, PreTrainedModel):
        return tokenizer_beside(source)
    return load_tokenizer(as_pretrained(source))


def load_backbone(source: ModelSource) -> PreTrainedModel:
    """Load the model without head and dropout, sharing no weight with the source; critics start from it."""
    if isinstance(source, Policy):
        return load_backbone(source.model)
    if isinstance(source, PreTrainedModel):
        check_finite(source, describe(source))
        backbone = copy.deepcopy(source.base_model)
        assert isinstance(backbone, PreTrainedModel)
        return without_dropout(backbone)
    return load_headless(source)


def check_model(source: ModelSource) -> None:
    """Raise one clear line, before any weight is read, if the model cannot be loaded or is no causal language model.

    Reads the configuration, the tokenizer's files, and of local weight files the headers.

    Raises:
        UsageError: Naming the model and what is wrong with it.
    """
    if not isinstance(source, PreTrainedModel | Policy):
        model = as_pretrained(source)
        model.check_attention()
        load_config(model)
        check_files(model)
    check_vocabulary(config_of(source), tokenizer_of(source), describe(source), "its own tokenizer")
