"""Critics that are shown the answer: it reaches them, it never reaches the policy, and it must be the right one."""

import pytest
import torch

from rl4llm.advantages import GAE
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.critics import (
    BatchMean,
    ExplainedVarianceSwitch,
    GreedyValue,
    MiniCritics,
    Privileged,
    SymmetricCritic,
    Tether,
    TrunkCritic,
)
from rl4llm.critics.privileged import after_prompts
from rl4llm.replay import FIFOReplay
from tests.algorithms.helpers import collected, loop, run, some_prompts
from tests.classic_bugs.test_loss import some_batch


def shown(module, batch, prompts):
    """The prompts as the critics read them, as text."""
    seen, source = [], module.critics
    critic = source.inner.critics[0]
    outputs = critic.outputs

    def look(rows):
        seen.append(rows)
        return outputs(rows)

    critic.outputs = look
    judged = source.values(batch, module.value_context(module.runtime(), prompts, Meter()))
    critic.outputs = outputs
    decode = module.policy.tokenizer.decode
    rows = [row for piece in seen for row in zip(piece.prompt_ids, piece.prompt_mask, strict=True)]
    return judged, sorted(decode(ids[mask]).replace(" ", "") for ids, mask in rows)


def made(tiny_policy, tiny_critic, **changes):
    critics = Privileged(MiniCritics(tiny_critic, size=1, shards="shared"), **changes)
    return loop(tiny_policy, critics=critics, advantage=GAE())


def test_critics_read_the_answer_of_their_own_prompt(tiny_policy, tiny_critic):
    module, prompts = made(tiny_policy, tiny_critic), some_prompts(3)
    batch = collected(module, prompts).batch
    judged, texts = shown(module, batch, prompts)
    assert texts == sorted(f"{one.prompt}{one.answer}=" for one in prompts.examples for _ in range(4))
    assert torch.equal(judged.prompt_ids, batch.prompt_ids)
    assert torch.equal(judged.prompt_mask, batch.prompt_mask)
    assert judged.values.shape == batch.response_mask.shape


def test_shuffled_they_read_that_of_another_prompt(tiny_policy, tiny_critic):
    module, prompts = made(tiny_policy, tiny_critic, shuffled=True), some_prompts(3)
    batch = collected(module, prompts).batch
    _, texts = shown(module, batch, prompts)
    answers = [one.answer for one in prompts.examples]
    others = answers[1:] + answers[:1]
    pairs = zip(prompts.examples, others, strict=True)
    assert texts == sorted(f"{one.prompt}{other}=" for one, other in pairs for _ in range(4))


def test_the_policy_never_sees_it(tiny_policy, tiny_critic):
    """Every prompt that the policy reads, to sample or to learn, is one of the data set's."""
    module = made(tiny_policy, tiny_critic)
    seen = set()
    forward = module.policy.forward

    def look(rows, **options):
        seen.update(tuple(ids[mask].tolist()) for ids, mask in zip(rows.prompt_ids, rows.prompt_mask, strict=True))
        return forward(rows, **options)

    module.policy.forward = look
    run(module, steps=2)
    assert seen
    equals = module.policy.tokenizer("=")["input_ids"]
    assert all(list(prompt).count(equals[0]) == 1 for prompt in seen)


def test_values_depend_on_it_and_the_critics_learn_with_it(tiny_policy, tiny_critic):
    prompts = some_prompts(3)
    told, misled = (made(tiny_policy, tiny_critic, shuffled=shuffled) for shuffled in (False, True))
    batch = collected(told, prompts).batch
    assert not torch.equal(shown(told, batch, prompts)[0].values, shown(misled, batch, prompts)[0].values)
    before = told.critics.inner.critics[0].backbone.get_input_embeddings().weight.clone()
    run(told, steps=3)
    assert not torch.equal(told.critics.inner.critics[0].backbone.get_input_embeddings().weight, before)


def test_prompts_get_longer_on_the_right_and_stay_aligned_there(unchecked_shapes):
    batch = some_batch(0, rows=3, time=2)
    longer = after_prompts(batch, [[7], [], [8, 9]])
    assert longer.prompt_ids.tolist() == [[0, 1, 1, 7], [0, 0, 1, 1], [1, 1, 8, 9]]
    assert longer.prompt_mask.tolist() == [[False, True, True, True], [False, False, True, True], [True] * 4]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Privileged(template="answer="),
            r"template='answer=' does not say where the answer stands; write {answ",
        ),
        (
            lambda: Privileged(TrunkCritic()).check("", 4),
            r"Privileged: critics=TrunkCritic is trained with the policy's loss",
        ),
        (
            lambda: Privileged(GreedyValue()).check("", 4),
            r"critics=GreedyValue has no critics that could be shown more",
        ),
    ],
)
def test_bad_choices_are_one_line(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_replayed_prompts_have_no_answers_at_hand(tiny_policy):
    with pytest.raises(UsageError, match=r"critics=Privileged completes the prompts|those of replay=FIFOReplay"):
        loop(tiny_policy, critics=Privileged(SymmetricCritic()), advantage=GAE(), replay=FIFOReplay())


@pytest.mark.parametrize("kind", [Tether, ExplainedVarianceSwitch, BatchMean])
def test_what_wraps_critics_that_need_prompts_needs_them_too(kind):
    assert kind(Privileged()).needs_prompts
    assert not kind(MiniCritics()).needs_prompts
