"""Configuration, tokenizer and backbone of anything that a model slot accepts."""

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.models.adapters import Adapted, unwrapped
from rl4llm.models.configuration import check_vocabulary, load_config, load_tokenizer
from rl4llm.models.loading import load_headless, without_dropout
from rl4llm.models.policy import ModelSource, Policy, tokenizer_beside
from rl4llm.models.pretrained import Pretrained, as_pretrained
from rl4llm.models.weight_files import check_files
from rl4llm.models.weights import check_finite


def plain(source: ModelSource) -> PreTrainedModel | Pretrained:
    """Return the model object that a source holds, or the description of the one to load."""
    if isinstance(source, Policy):
        return source.model
    if isinstance(source, Adapted):
        return unwrapped(source)
    return source if isinstance(source, PreTrainedModel) else as_pretrained(source)


def describe(source: ModelSource) -> str:
    """Describe the model for a message."""
    if not isinstance(source, PreTrainedModel | Adapted | Policy):
        return f"model '{source if isinstance(source, str) else as_pretrained(source).name}'"
    model = plain(source)
    assert isinstance(model, PreTrainedModel)
    return f"model '{model.name_or_path or type(model).__name__}'"


def config_of(source: ModelSource) -> PreTrainedConfig:
    """Return the model's configuration without reading weights."""
    model = plain(source)
    return model.config if isinstance(model, PreTrainedModel) else load_config(model)


def tokenizer_of(source: ModelSource) -> Tokenizer:
    """Return the model's tokenizer without reading weights."""
    if isinstance(source, Policy):
        return source.tokenizer
    model = plain(source)
    return tokenizer_beside(model) if isinstance(model, PreTrainedModel) else load_tokenizer(model)


def load_backbone(source: ModelSource) -> PreTrainedModel:
    """Load the model without head and dropout, sharing no weight with the source; critics start from it."""
    model = plain(source)
    if isinstance(model, Pretrained):
        return load_headless(model)
    check_finite(model, describe(source))
    backbone = copy.deepcopy(model.base_model)
    assert isinstance(backbone, PreTrainedModel)
    return without_dropout(backbone)


def check_model(source: ModelSource) -> None:
    """Raise one clear line, before any weight is read, if the model cannot be loaded or is no causal language model.

    Reads the configuration, the tokenizer's files, and of local weight files the headers.

    Raises:
        UsageError: Naming the model and what is wrong with it.
    """
    model = plain(source)
    if isinstance(model, Pretrained):
        model.check_attention()
        config = load_config(model)
        check_files(model)
        _check_adapter(model, config)
    check_vocabulary(config_of(source), tokenizer_of(source), describe(source), "its own tokenizer")


def _check_adapter(model: Pretrained, config: PreTrainedConfig) -> None:
    """Raise if the adapter does not fit the architecture, which is built without memory for its weights."""
    if model.adapter is not None:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
        model.adapter.check(empty)
