"""Whatever is wrong with an argument, every public function that has it says so in one line that names it."""

import inspect
import re

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.roles import CONSTANTS, rounding_margin
from tests.contracts.arguments import FAMILIES, arguments, axes_of, functions

MODULES = ("segments", "masked", "log_probs", "linear_log_probs", "groups", "kl", "ratios")
BUILDING_BLOCKS = ("at_least_float32", "result_dtype", "check_ids", "chunk_statistics")  # called behind the checks
FUNCTIONS = {name: f for name, f in functions(*FAMILIES, *MODULES).items() if name not in BUILDING_BLOCKS}
MASKED = (0, 1)  # an entry that the masks below do not count


def tensors_of(name):
    """Names of the tensors among the arguments of a function, with the dtype and the axes that it declares."""
    signature = inspect.signature(FUNCTIONS[name]).parameters
    return {argument: found for argument in signature if (found := axes_of(signature[argument]))}


def having(role):
    """Pairs of a function and an argument of a role."""
    return [(name, argument) for name in FUNCTIONS for argument in tensors_of(name) if role(name, argument)]


def kind(name, argument):
    return tensors_of(name)[argument][0]


def refused(name, **changes):
    """What a function says of arguments that are valid but for some."""
    with pytest.raises((UsageError, TypeError)) as caught:
        FUNCTIONS[name](**arguments(FUNCTIONS[name]) | changes)
    said = str(caught.value)
    assert "\n" not in said
    assert re.match(r"\w+: ", said), said
    assert all(re.search(rf"\b{argument}\b", said) for argument in changes), said
    return said


def valid(name, argument):
    return arguments(FUNCTIONS[name])[argument]


def every(role):
    return pytest.mark.parametrize(("name", "argument"), having(role), ids=lambda x: x)


log_probs = every(lambda name, argument: argument.endswith("log_probs"))


@log_probs
def test_a_log_prob_above_0_is_refused_where_it_stands(name, argument, unchecked_shapes):
    given = valid(name, argument)
    given[(0,) * given.ndim] = 0.31
    place = re.escape(str([0] * given.ndim))
    said = refused(name, **{argument: given})
    assert re.search(rf"log-probabilities are at most 0; got 0\.31 at {place} of {argument}: pass log_softmax", said)


@log_probs
def test_a_log_prob_above_0_is_fine_where_it_rounds_or_is_not_read(name, argument):
    given = arguments(FUNCTIONS[name])
    given[argument][(0,) * given[argument].ndim] = 1e-7
    if "response_mask" in given:
        given["response_mask"][MASKED] = False
        given[argument][MASKED] = 9.0
    FUNCTIONS[name](**given)


@every(lambda name, argument: argument in CONSTANTS)
def test_a_constant_with_a_graph_is_refused(name, argument, unchecked_shapes):
    given = valid(name, argument).requires_grad_()
    for constant in (given, given * 1.0):
        assert re.search(r"carries a gradient graph.*detach\(\) it", refused(name, **{argument: constant}))
    with torch.no_grad():
        FUNCTIONS[name](**arguments(FUNCTIONS[name]) | {argument: given * 1.0})


@every(lambda name, argument: kind(name, argument) == "Bool")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_a_mask_of_numbers_is_refused(name, argument, dtype, unchecked_shapes):
    assert f"pass {argument}.bool()" in refused(name, **{argument: valid(name, argument).to(dtype)})


@every(lambda name, argument: kind(name, argument) == "Int")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.bool])
def test_ids_that_are_no_integers_are_refused(name, argument, dtype, unchecked_shapes):
    assert f"pass {argument}.long()" in refused(name, **{argument: valid(name, argument).to(dtype)})


@every(lambda name, argument: argument == "rewards")
@pytest.mark.parametrize("reward", ["nan", "inf"])
def test_a_reward_that_is_no_number_is_refused(name, argument, reward, unchecked_shapes):
    given = arguments(FUNCTIONS[name])
    given["rewards"][0, 2] = float(reward)
    assert f"rewards must be finite; got {reward} at [0, 2] of rewards" in refused(name, rewards=given["rewards"])
    given["response_mask"][0, 2] = False
    FUNCTIONS[name](**given)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", [name for name, f in FUNCTIONS.items() if "temperature" in inspect.signature(f).parameters]
)
def test_a_temperature_that_is_not_positive_is_refused(name, temperature, unchecked_shapes):
    refused(name, temperature=temperature)


@every(lambda name, argument: len(tensors_of(name)) > 1 and argument in arguments(FUNCTIONS[name]))
def test_a_tensor_on_another_device_is_refused(name, argument, unchecked_shapes):
    assert " is on " in refused(name, **{argument: valid(name, argument).to("meta")})


@every(lambda name, argument: argument in arguments(FUNCTIONS[name]))
def test_lists_and_arrays_are_refused(name, argument, unchecked_shapes):
    given = valid(name, argument)
    for other in (given.tolist(), given.numpy()):
        assert f"{argument} is of type {type(other).__name__}; pass a tensor" in refused(name, **{argument: other})


@every(
    lambda name, argument: inspect.signature(FUNCTIONS[name]).parameters[argument].default is inspect.Parameter.empty
)
def test_none_is_refused(name, argument, unchecked_shapes):
    assert f"{argument} is None; pass a tensor" in refused(name, **{argument: None})


@every(lambda name, argument: argument == "advantages" and "response_mask" in tensors_of(name))
def test_one_advantage_per_response_is_refused_with_the_function_that_spreads_it(name, argument, unchecked_shapes):
    said = refused(name, advantages=torch.ones(2, dtype=torch.float64))
    assert "rl4llm.masked.spread(advantages, response_mask)" in said


@every(lambda name, argument: argument == "group_ids" and name != "dense_group_ids")
def test_groups_may_have_any_numbers(name, argument):
    given = arguments(FUNCTIONS[name])
    given |= {"num_critics": 1} if "num_critics" in given else {}
    for ids, others in (([0, 1], [-7, 900]), ([0, 0], [2**40, 2**40])):
        results = [FUNCTIONS[name](**given | {argument: torch.tensor(numbers)}) for numbers in (ids, others)]
        torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounding_lifts_no_log_prob_beyond_its_margin(dtype):
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8
    logits[:, 0] = logits.amax(-1) + 20
    logits = logits.to(dtype)
    lifted = (logits[:, 0] - logits.logsumexp(-1)).max()
    assert 0 <= lifted <= rounding_margin(dtype) < 0.1
