"""Every public function refuses what does not fit, in one line with its own name and that of the argument."""

import functools
import importlib
import inspect
import math
import re

import pytest
import torch

from rl4llm import advantages, critics, gates, masked, objectives, regularizers
from rl4llm.checks import UsageError

FAMILIES = ("advantages", "corrections", "critics", "gates", "objectives", "regularizers", "rewards", "metrics")
SIZES = {"batch": 2, "time": 3, "critic": 2, "segment": 3, "bin": 4, "group": 2, "axes": 3}
OPTIONS = {"k": 2, "num_critics": 2, "critic": 0, "low": 0.5, "high": 2.0, "level": "token", "fraction": 0.2, "q": 0.5}
OPTIONS |= {"max_tokens": 6, "cache_tokens": 2, "delta_low": 0.1, "delta_high": 0.1, "score": 1.0, "divergence": 0.1}
NUMBERS = {"scores": 1.0, "entropies": 1.0, "old_entropies": 1.0, "correct": 1, "responses": 2, "lengths": 3}
# Functions of which others are made.
INNER = (
    "token_log_ratio",
    "weighted_reinforce",
    "reinforce",
    "covariance",
    "kl_k3",
    "sequence_sum",
)  # what others are made of
UNREAD = {  # by default, or only as far as it is needed
    ("segment_advantages", "boundary_values"),
    ("whiten", "group_ids"),
    ("correct_responses", "response_mask"),
    ("finished_responses", "response_mask"),
    ("dppo", "old_log_probs"),
    ("dppo", "response_ids"),
}
OF_NUMBERS_TOO = {"beta_tracker_update"}  # takes numbers or tensors, broadcast together


def functions():
    """Public functions of the families whose documents promise errors, and the masked reductions."""
    packages = [importlib.import_module(f"rl4llm.{name}") for name in FAMILIES]
    named = {name: getattr(package, name) for package in packages for name in package.__all__}
    named |= {name: getattr(masked, name) for name in ("keep", "masked_mean", "masked_var", "masked_quantile")}
    promises = re.compile(r"Raises:|[Ee]rrors\s+as\s+in")
    named = {name: thing for name, thing in named.items() if inspect.isfunction(thing) and name not in OF_NUMBERS_TOO}
    return {name: function for name, function in named.items() if promises.search(inspect.getdoc(function) or "")}


def axes_of(parameter):
    """The dtype and the axes that an annotation names; None where it is no tensor's."""
    text = getattr(parameter.annotation, "__name__", "") or str(parameter.annotation)
    text = text if "[Tensor" in text else str(parameter.annotation)
    found = re.search(r"(Float|Num|Int|Bool)\[Tensor, '([\w* ]+)'\]", text)
    return found and (found[1], [axis.lstrip("*") for axis in found[2].split()])


def arguments(function):
    """Something valid for every required argument, and for every tensor."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        found = axes_of(parameter)
        if found and all(axis in SIZES for axis in found[1]):
            dtype = {"Int": torch.long, "Bool": torch.bool}.get(found[0], torch.float64)
            number = NUMBERS.get(name, {"Int": 0, "Bool": 1}.get(found[0], -1.0))
            given[name] = torch.full([SIZES[axis] for axis in found[1]], number, dtype=dtype)
        elif parameter.default is parameter.empty:
            given[name] = OPTIONS[name]
    return given


def tensors_of(name):
    """Names of the arguments that are tensors, where there are others whose shapes they must match."""
    found = [argument for argument, x in arguments(FUNCTIONS[name]).items() if isinstance(x, torch.Tensor)]
    return found if len(found) > 1 else []


def numbers_of(name):
    """Names of the hyperparameters that are numbers."""
    hints = {p: str(parameter.annotation) for p, parameter in inspect.signature(FUNCTIONS[name]).parameters.items()}
    return [p for p, hint in hints.items() if "float" in hint and "Tensor" not in hint and p != "fill"]


FUNCTIONS = functions()
TENSORS = [(name, argument) for name in FUNCTIONS for argument in tensors_of(name) if (name, argument) not in UNREAD]
NUMBERS_OF = [(name, argument) for name in FUNCTIONS for argument in numbers_of(name)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_valid_arguments_are_valid(name):
    FUNCTIONS[name](**arguments(FUNCTIONS[name]))


@pytest.mark.parametrize(("name", "argument"), TENSORS, ids=str)
def test_a_tensor_of_another_shape_is_named(name, argument, unchecked_shapes):
    given = arguments(FUNCTIONS[name])
    given[argument] = torch.cat([given[argument]] * 2, -1 if given[argument].ndim < 3 else 1)
    with pytest.raises(UsageError, match=rf"^({name}|{'|'.join(INNER)}): .* has shape ") as caught:
        FUNCTIONS[name](**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "argument"), NUMBERS_OF, ids=str)
def test_a_hyperparameter_that_is_no_number_is_named(name, argument):
    given = arguments(FUNCTIONS[name]) | {argument: float("nan")}
    with pytest.raises(UsageError, match=rf"^{name}\b.*\b{argument}\b"):
        FUNCTIONS[name](**given)


MIXED = ["gae", "length_adaptive_gae", "segment_advantages", "tracker_advantages", "optimal_baseline"]


@pytest.mark.parametrize("name", MIXED)
def test_results_have_the_widest_dtype_among_the_numbers(name):
    given = arguments(FUNCTIONS[name])
    numbers = [argument for argument, x in given.items() if x.is_floating_point() and argument != "lengths"]
    for wide in numbers:
        mixed = {
            argument: x.float() if argument in numbers and argument != wide else x for argument, x in given.items()
        }
        result = FUNCTIONS[name](**mixed)
        assert (result if isinstance(result, torch.Tensor) else result[0]).dtype == torch.float64


PROBES = [-math.inf, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 1.5, 2.0, math.inf, math.nan]
# A function, the component that calls it, and the name that a hyperparameter has there.
SAME_DOMAIN = [
    ("gae", advantages.GAE, {"gamma": "gamma", "lam": "lam", "lam_returns": "lam_returns"}),
    ("length_adaptive_gae", advantages.LengthAdaptiveGAE, {n: n for n in ("gamma", "alpha", "lam_returns")}),
    ("discounted_returns", advantages.MonteCarlo, {"gamma": "gamma"}),
    ("correctness_relative", advantages.CorrectnessRelative, {"min_correct": "min_correct"}),
    ("quantile_relative", advantages.QuantileRelative, {"k": "quantile"}),
    ("pass_at_k", advantages.PassAtKTraining, {"k": "k"}),
    ("agreement_gate", gates.AgreementGate, {"fraction": "fraction"}),
    ("divergence_filter", gates.DivergenceFilter, {"fraction": "fraction"}),
    ("high_entropy", gates.HighEntropy, {"fraction": "fraction"}),
    ("advantage_magnitude", gates.AdvantageMagnitude, {"fraction": "fraction"}),
    ("random_gate", gates.RandomGate, {"fraction": "fraction"}),
    ("correct_responses", gates.CorrectResponses, {"threshold": "threshold"}),
    ("clipped_value_loss", critics.ClippedValueLoss, {"clip": "clip"}),
    ("optimal_advantage_regression", objectives.OptimalAdvantageRegression, {"beta": "beta"}),
    ("trajectory_bellman_residual", objectives.TrajectoryBellmanResidual, {"beta": "beta"}),
    ("rebel", objectives.REBEL, {"eta": "eta"}),
    ("kl_reward", regularizers.KLReward, {"coef": "coef"}),
]


def accepts(call, argument, number):
    """Whether a hyperparameter is allowed."""
    try:
        call(**{argument: number})
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(("name", "component", "names"), SAME_DOMAIN, ids=lambda x: x if isinstance(x, str) else "")
def test_a_function_and_its_component_allow_the_same_numbers(name, component, names, unchecked_shapes):
    given = arguments(FUNCTIONS[name])
    for argument, field in names.items():
        others = {key: value for key, value in given.items() if key != argument}
        probes = [-1, 0, 1, 2] if argument == "k" and name == "pass_at_k" else PROBES
        of_function = [accepts(functools.partial(FUNCTIONS[name], **others), argument, x) for x in probes]
        assert of_function == [accepts(component, field, x) for x in probes], (argument, probes)
        assert True in of_function
        assert False in of_function
