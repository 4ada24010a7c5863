"""Every public function refuses what does not fit, in one line with its own name and that of the argument."""

import functools
import inspect
import math
import re

import pytest
import torch

from rl4llm import advantages, critics, gates, masked, objectives, regularizers
from rl4llm.checks import UsageError
from rl4llm.objectives.base import RatioObjective, options_of
from tests.contracts.arguments import FAMILIES, arguments, functions

# Functions of which others are made.
INNER = (
    "token_log_ratio",
    "token_ratio",
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
    *(("proved_prompts", errors) for errors in ("errors", "recent_errors")),  # as many as there are, of either
    ("ridge_fit", "features"),  # any number of them is fine
    ("kinds_at", "response_ids"),  # of any shape
    ("kinds_at", "kinds"),  # for a vocabulary of any size
}
OF_NUMBERS_TOO = {"beta_tracker_update"}  # takes numbers or tensors, broadcast together


def promising():
    """Public functions of the families whose documents promise errors, and the masked reductions."""
    named = functions(*FAMILIES)
    named |= {name: getattr(masked, name) for name in ("keep", "masked_mean", "masked_var", "masked_quantile")}
    promises = re.compile(r"Raises:|[Ee]rrors\s+as\s+in")
    named = {name: function for name, function in named.items() if name not in OF_NUMBERS_TOO}
    return {name: function for name, function in named.items() if promises.search(inspect.getdoc(function) or "")}


def tensors_of(name):
    """Names of the arguments that are tensors, where there are others whose shapes they must match."""
    found = [argument for argument, x in arguments(FUNCTIONS[name]).items() if isinstance(x, torch.Tensor)]
    return found if len(found) > 1 else []


def numbers_of(name):
    """Names of the hyperparameters that are numbers."""
    hints = {p: str(parameter.annotation) for p, parameter in inspect.signature(FUNCTIONS[name]).parameters.items()}
    return [p for p, hint in hints.items() if "float" in hint and "Tensor" not in hint and p != "fill"]


FUNCTIONS = promising()
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
    said = str(caught.value)
    assert "\n" not in said
    if said.startswith(f"{name}: "):
        assert re.search(r": (\w+) has shape", said)[1] in {*given, "responses"}


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
    ("constant_baseline", advantages.ConstantBaseline, {"baseline": "baseline"}),
    ("discounted_returns", advantages.MonteCarlo, {"gamma": "gamma"}),
    ("correctness_relative", advantages.CorrectnessRelative, {"min_correct": "min_correct"}),
    ("quantile_relative", advantages.QuantileRelative, {"k": "quantile"}),
    ("pass_at_k", advantages.PassAtKTraining, {"k": "k"}),
    ("agreement_gate", gates.AgreementGate, {"fraction": "fraction"}),
    ("divergence_filter", gates.DivergenceFilter, {"fraction": "fraction"}),
    ("high_entropy", gates.HighEntropy, {"fraction": "fraction"}),
    ("low_entropy", gates.LowEntropy, {"fraction": "fraction"}),
    ("wide_returns", gates.WideReturns, {"fraction": "fraction"}),
    ("narrow_returns", gates.NarrowReturns, {"fraction": "fraction"}),
    ("advantage_magnitude", gates.AdvantageMagnitude, {"fraction": "fraction"}),
    ("random_gate", gates.RandomGate, {"fraction": "fraction"}),
    ("correct_responses", gates.CorrectResponses, {"threshold": "threshold"}),
    ("blend_coefficient", critics.Tether, {"decay": "decay", "ridge": "ridge"}),
    ("ridge_fit", critics.CrossRolloutProbe, {"ridge": "ridge"}),
    ("trusted_mean", critics.ExplainedVarianceSwitch, {"threshold": "threshold"}),
    ("proved_prompts", critics.Readiness, {"step": "step", "prompt": "prompt"}),
    ("noise_weights", critics.NoiseNormalizedValueLoss, {"floor": "floor", "power": "power"}),
    ("clipped_value_loss", critics.ClippedValueLoss, {"clip": "clip"}),
    ("bounded_value", critics.BoundedHead, {"low": "low", "high": "high"}),
    ("hl_gauss_loss", critics.HistogramHead, {n: n for n in ("low", "high", "sigma")}),
    ("quantile_loss", critics.QuantileHead, {"kappa": "kappa"}),
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


def test_a_count_below_one_is_named_by_function_and_component():
    with pytest.raises(UsageError, match=r"^pass_at_k: k must be a whole number of at least 1, got 0"):
        advantages.pass_at_k(torch.zeros(2), torch.zeros(2, dtype=torch.long), k=0)
    with pytest.raises(UsageError, match=r"^PassAtKTraining: k must be a whole number of at least 1, got 0"):
        advantages.PassAtKTraining(k=0)


@pytest.mark.parametrize("name", ["segment_advantages", "tracker_advantages"])
def test_scores_are_a_vector(name, unchecked_shapes):
    given = arguments(FUNCTIONS[name])
    given |= {argument: given[argument][:, None] for argument in ("scores", "baselines") if argument in given}
    with pytest.raises(UsageError, match=rf"^{name}: scores has shape \(2, 1\)"):
        FUNCTIONS[name](**given)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "response_mask" in arguments(FUNCTIONS[name])])
def test_a_batch_of_no_rows_is_fine(name):
    given = arguments(FUNCTIONS[name])
    given = {k: x.narrow(int("critic" in k), 0, 0) if isinstance(x, torch.Tensor) else x for k, x in given.items()}
    if "boundary_values" in given:
        given["boundary_values"] = given["boundary_values"][:, :0]
    if "states" in given:
        given["states"] = critics.PolicyStates(*(tensor[:0] for tensor in given["states"]))
    result = FUNCTIONS[name](**given)
    for tensor in result if isinstance(result, tuple) else [result]:
        assert tensor.numel() in (0, 1)
        assert torch.as_tensor(tensor).double().isfinite().all()


def gradient(loss, leaf):
    """Of the sum."""
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return slope


def many_ratios():
    """Log-probs, those before the update, advantages and a mask: log-ratios of all sizes from 1e-4 to 4, both signs."""
    generator = torch.Generator().manual_seed(0)
    new, move, advantages = (torch.rand(12, 40, generator=generator, dtype=torch.float64) for _ in range(3))
    sizes = torch.logspace(-4, 0.6, 12, dtype=torch.float64)[:, None]
    return -7 - new, -7 - new + sizes * (2 * move - 0.8), advantages - 0.4, torch.ones(12, 40, dtype=torch.bool)


RATIO_OBJECTIVES = [x for x in vars(objectives).values() if isinstance(x, type) and issubclass(x, RatioObjective)]
RATIO_OBJECTIVES = [x for x in RATIO_OBJECTIVES if not inspect.isabstract(x)]


@pytest.mark.parametrize("component", RATIO_OBJECTIVES, ids=lambda x: x.__name__)
def test_a_function_left_to_its_defaults_is_the_component_left_to_its_own(component):
    new, *others = many_ratios()
    leaf = new.clone().requires_grad_()
    spelt_out = component.function(leaf, *others, **options_of(component()))
    assert torch.equal(gradient(component.function(leaf, *others), leaf), gradient(spelt_out, leaf))


@pytest.mark.parametrize(
    ("function", "component"),
    [(gates.high_covariance, gates.HighCovariance), (gates.covariance_gate, gates.CovarianceGate)],
)
def test_a_gate_left_to_its_defaults_is_the_component_left_to_its_own(function, component):
    new, _, advantages, mask = (x.repeat(30, 1) for x in many_ratios())
    given = {"prompt_uids": torch.arange(len(mask)), "response_ids": torch.arange(40).repeat(len(mask), 1)}
    given = given if function is gates.covariance_gate else {}
    given |= {"log_probs": 3 * new, "advantages": 3 * advantages, "response_mask": mask}
    kept = function(**given)
    assert torch.equal(kept, function(**given, **options_of(component())))
    assert (~kept).sum() > 0
    assert kept.any()


def test_the_entropy_ratio_left_to_its_defaults_is_the_component_left_to_its_own():
    new, old, _, mask = many_ratios()
    kept = objectives.entropy_ratio_mask(-new, -old, mask)
    assert torch.equal(kept, objectives.entropy_ratio_mask(-new, -old, mask, clip_low=0.05, clip_high=0.05))
    assert objectives.EntropyRatioClip(objectives.PPOClip()).clip_low == 0.05
    assert objectives.EntropyRatioClip(objectives.PPOClip()).clip_high == 0.05


def test_dppo_left_to_its_defaults_is_the_component_left_to_its_own(unchecked_shapes):
    new, *others = many_ratios()
    leaf, options = new.clone().requires_grad_(), options_of(objectives.DPPO())
    spelt_out = objectives.dppo(leaf, *others, **options)
    assert torch.equal(gradient(objectives.dppo(leaf, *others), leaf), gradient(spelt_out, leaf))
    with pytest.raises(UsageError, match=r"^dppo: weight_cap "):
        objectives.dppo(new, *others, weight_cap=float("nan"))
    with pytest.raises(UsageError, match=r"^dppo: divergence "):
        objectives.dppo(new, *others, divergence="nonsense")
