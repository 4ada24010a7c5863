"""The offline survey: cached by what was surveyed, resumable, and by prompt identity."""

import json

import pytest
import torch

from rl4llm.advantages import SingleStream
from rl4llm.algorithms import Runtime
from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.survey import policy_fingerprint, prompts_fingerprint, survey
from rl4llm.checks import UsageError
from rl4llm.critics import BetaTracker, OptimalValue, optimal_value
from rl4llm.data import AbsoluteDifference, Example, Filtered, PromptBatch, PromptData
from rl4llm.models import Policy
from rl4llm.objectives import OptimalAdvantageRegression
from rl4llm.rewards import Scoring
from rl4llm.rollouts import Sampling
from rl4llm.rollouts.hugging_face import HuggingFaceEngine
from tests.algorithms.helpers import TASK, even_length, loop, on_ranks, run

SAMPLING = Sampling(max_response_tokens=6)


class Broken(HuggingFaceEngine):
    """An engine that must not be used."""

    def generate(self, *args, **options):
        raise AssertionError("drew again")


def answering(policy, sampling=SAMPLING, engine=HuggingFaceEngine):
    return Answering(policy, engine(policy), Scoring(workers=0).build(), sampling)


@pytest.fixture
def policy(tiny_policy):
    return Policy.load(tiny_policy)


def every(task=TASK):
    return PromptBatch(task.examples("train"), task)


def ask(policy, folder, task=TASK, samples=4, cache=None, runtime=None, **changes):
    one = answering(policy, **changes)
    return survey(runtime or Runtime(), one, every(task), samples=samples, cache=cache, folder=folder)


def test_every_prompt_gets_its_scores_by_uid(policy, tmp_path):
    found = ask(policy, tmp_path)
    assert set(found) == {example.uid for example in TASK.examples("train")}
    assert all(len(scores) == 4 and set(scores) <= {0.0, 1.0} for scores in found.values())
    assert 0.1 < sum(map(sum, found.values())) / (4 * len(found)) < 0.9


def test_a_second_call_reads_the_file_and_draws_nothing(policy, tmp_path):
    first = ask(policy, tmp_path)
    assert ask(policy, tmp_path, engine=Broken) == first
    (file,) = tmp_path.iterdir()
    assert ask(policy, tmp_path / "elsewhere", cache=str(file), engine=Broken) == first


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_survey_and_only_the_first_writes_it(policy, tmp_path, ranks):
    whole = ask(policy, tmp_path / "one")
    policies, calls = [Policy.copy_of(policy) for _ in range(ranks)], []

    def work(runtime):
        class Counting(HuggingFaceEngine):
            def generate(self, ids, mask, limits, **options):
                calls.append((runtime.rank, len(ids)))
                return super().generate(ids, mask, limits, **options)

        return ask(policies[runtime.rank], tmp_path / "many", runtime=runtime, engine=Counting)

    for found in on_ranks(ranks, work):
        assert found == whole
    assert sum(count for _, count in calls) == len(whole)
    assert {rank for rank, _ in calls} == set(range(ranks))
    (one,), (many,) = ((tmp_path / name).iterdir() for name in ("one", "many"))
    assert many.read_text() == one.read_text()


def test_a_failure_to_read_the_file_on_the_first_rank_ends_all(policy, tmp_path):
    cache = str(tmp_path / "survey.jsonl")
    ask(policy, tmp_path, cache=cache)
    policies = [Policy.copy_of(policy) for _ in range(2)]

    def work(runtime):
        with pytest.raises(UsageError, match="belongs to another samples"):
            ask(policies[runtime.rank], tmp_path, cache=cache, samples=2, runtime=runtime)
        return True

    assert on_ranks(2, work) == [True, True]


@pytest.mark.parametrize("kept", [1, 2, 30.5])
def test_an_interrupted_survey_goes_on_and_ends_the_same(policy, tmp_path, monkeypatch, kept):
    monkeypatch.setattr("rl4llm.algorithms.survey._CHUNK", 8)
    whole = ask(policy, tmp_path / "whole")
    (file,) = (tmp_path / "whole").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    text = "".join(lines[: int(kept)])
    file.write_text(text + (lines[int(kept)][:9] if kept % 1 else ""))  # cut off within a line
    assert ask(policy, tmp_path / "whole") == whole
    assert ask(policy, tmp_path / "whole") == whole


def test_unscorable_responses_stay_unscorable_in_the_file(policy, tmp_path):
    def sometimes(prompt, response, answer):
        return None if response.startswith("1") else 1.0

    task = AbsoluteDifference(digits=3, train_size=16, reward=sometimes)
    first, second = ask(policy, tmp_path, task), ask(policy, tmp_path, task)
    assert any(score != score for scores in first.values() for score in scores)
    for uid, scores in first.items():
        assert [score == score for score in scores] == [score == score for score in second[uid]]


CHANGES = [
    ({"samples": 3}, "samples"),
    ({"task": AbsoluteDifference(digits=3, train_size=40, reward=even_length)}, "prompts"),
    ({"sampling": Sampling(temperature=0.5, max_response_tokens=6)}, "sampling"),
]


@pytest.mark.parametrize(("changes", "what"), CHANGES, ids=lambda x: x if isinstance(x, str) else "")
def test_a_cache_of_something_else_is_refused_in_one_line(policy, tmp_path, changes, what):
    cache = str(tmp_path / "survey.jsonl")
    ask(policy, tmp_path, cache=cache)
    with pytest.raises(UsageError, match=rf"the cache '.*survey\.jsonl' belongs to another {what} .*delete it"):
        ask(policy, tmp_path, cache=cache, **changes)


def test_a_cache_of_another_policy_is_refused(policy, tmp_path):
    cache = str(tmp_path / "survey.jsonl")
    ask(policy, tmp_path, cache=cache)
    next(policy.parameters()).data[0, 0] += 1e-3
    with pytest.raises(UsageError, match="belongs to another policy"):
        ask(policy, tmp_path, cache=cache)


def test_surveys_of_different_things_without_a_name_lie_side_by_side(policy, tmp_path):
    ask(policy, tmp_path)
    ask(policy, tmp_path, samples=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_prompts_need_an_identity(policy, tmp_path):
    for uids, message in (((1, -1), "uid -1 is not a valid identity"), ((1, 1), "uid 1 is that of two prompts")):
        examples = [Example(f"{index}2=", "1", uid) for index, uid in enumerate(uids)]
        with pytest.raises(UsageError, match=message):
            survey(Runtime(), answering(policy), PromptBatch(examples, TASK), samples=1, cache=None, folder=tmp_path)


def test_fingerprints_follow_content_and_not_order(policy):
    examples = list(TASK.examples("train")[:5])
    assert prompts_fingerprint(examples) == prompts_fingerprint(examples[::-1])
    assert prompts_fingerprint(examples) != prompts_fingerprint(examples[:4])
    before = policy_fingerprint(policy)
    assert before == policy_fingerprint(policy)
    list(policy.parameters())[-1].data.mul_(1.01)
    assert before != policy_fingerprint(policy)


def test_the_optimal_value_of_a_run_is_that_of_its_survey(tiny_policy, tmp_path):
    cache = tmp_path / "survey.jsonl"
    critics = OptimalValue(samples=4, beta=0.5, cache=str(cache))
    options = {"critics": critics, "advantage": SingleStream(), "objective": OptimalAdvantageRegression()}
    module = loop(tiny_policy, responses_per_prompt=1, **options)
    seen = {}
    original = module.critics.values
    module.critics.values = lambda batch, context: seen.setdefault("batch", original(batch, context))
    run(module, steps=1)
    records = {r["uid"]: r["scores"] for r in map(json.loads, cache.read_text().splitlines()[1:])}
    for uid, values in zip(seen["batch"].prompt_uids.tolist(), seen["batch"].values, strict=True):
        scores = torch.tensor(records[uid])
        expected = optimal_value(scores, torch.zeros(4, dtype=torch.long), beta=0.5)[0]
        torch.testing.assert_close(values[0], expected.to(values))


def test_a_run_from_a_checkpoint_surveys_nothing_again(tiny_policy, tmp_path):
    options = {"critics": BetaTracker(samples=2), "advantage": SingleStream(), "responses_per_prompt": 1}
    data = PromptData(TASK, prompts_per_step=3)
    run(loop(tiny_policy, **options), data=data, default_root_dir=tmp_path).save_checkpoint(tmp_path / "last.ckpt")
    (file,) = (tmp_path / "surveys").iterdir()
    file.unlink()
    resumed = loop(tiny_policy, **options)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    resumed.load_state_dict(state)
    run(resumed, data=data, default_root_dir=tmp_path)
    assert not list((tmp_path / "surveys").iterdir())


def test_prompts_that_the_reference_never_solves_are_left_out_when_asked(tiny_policy, tmp_path):
    drawn = []

    def three(prompt, response, answer):
        drawn.append(prompt)
        return float(prompt.startswith("3"))

    task = AbsoluteDifference(digits=3, shortest=3, train_size=64, held_out_size=4, reward=three)
    data = PromptData(task, prompts_per_step=2, sampler=Filtered())
    critics = OptimalValue(samples=2, keep="solved")
    module = loop(tiny_policy, critics=critics, advantage=SingleStream(), responses_per_prompt=1)
    run(module, steps=3, data=data, default_root_dir=tmp_path)
    surveyed = 2 * len({example.uid for example in task.examples("train")})
    assert {prompt[0] for prompt in drawn[surveyed:]} == {"3"}
    assert len(drawn) == surveyed + 6
