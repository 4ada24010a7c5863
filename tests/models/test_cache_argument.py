"""Models take their cache under the name that their version of transformers gives it, and share prompts either way."""

import inspect

import pytest
from transformers import Qwen3Model

from rl4llm.models import TinyQwen3
from rl4llm.models.loading import cache_argument
from rl4llm.models.prefixes import shares_prompts

TRUNK = TinyQwen3(hidden_size=16, layers=1, heads=2, key_value_heads=1, head_size=8, context=32).build()[0].base_model


class Known(Qwen3Model):
    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, **kwargs):
        given = {cache_argument(TRUNK): kwargs.pop(self.name, None)}
        assert not kwargs
        return super().forward(input_ids, attention_mask, position_ids, use_cache=use_cache, **given)


@pytest.mark.parametrize("name", ["past_key_values", "cache"], ids=["before transformers 5.24", "since"])
def test_a_cache_is_given_under_the_name_that_the_model_knows(name, monkeypatch):
    own = [p for p in inspect.signature(Known.forward).parameters.values() if p.name != "kwargs"]
    cache = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    monkeypatch.setattr(Known.forward, "__signature__", inspect.Signature([*own, cache]), raising=False)
    model = Known(TRUNK.config).double().eval()
    model.name = name
    assert cache_argument(model) == name
    assert shares_prompts(model)
