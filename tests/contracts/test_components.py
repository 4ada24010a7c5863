"""The contract of every component: found through the family bases, so a new one is covered as soon as it exists."""

import dataclasses
import functools
import importlib
import inspect
import pickle
import pkgutil
import re
from random import Random

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import rl4llm
from rl4llm import batch as batches
from rl4llm.advantages import (
    GAE,
    AdvantageEstimator,
    ConstantBaseline,
    CorrectnessRelative,
    GroupRelative,
    LeaveOneOut,
    LengthAdaptiveGAE,
    MaxRL,
    MonteCarlo,
    OptimalBaseline,
    PassAtKTraining,
    QuantileRelative,
    SegmentMonteCarlo,
    SingleStream,
    Whiten,
)
from rl4llm.checks import UsageError
from rl4llm.corrections import Correction, IcePop, MaskedImportance, TruncatedImportance
from rl4llm.critics import (
    BetaTracker,
    BoundedHead,
    ClippedValueLoss,
    CrossRolloutProbe,
    ExplainedVarianceSwitch,
    GreedyValue,
    Head,
    HistogramHead,
    LinearHead,
    MonteCarloValues,
    NoiseNormalizedValueLoss,
    QuantileHead,
    Readiness,
    SigmoidHead,
    SquaredValueLoss,
    Tether,
    TrunkCritic,
    ValueLoss,
)
from rl4llm.gates import (
    AdvantageMagnitude,
    AgreementGate,
    Both,
    Complement,
    CorrectResponses,
    CovarianceGate,
    DivergenceFilter,
    Either,
    FinishedResponses,
    Gate,
    HighCovariance,
    HighEntropy,
    LowEntropy,
    NarrowReturns,
    RandomGate,
    UndecidedStates,
    WideReturns,
)
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import (
    CISPO,
    DPPO,
    GMPO,
    GSPO,
    REBEL,
    SAPO,
    TOPR,
    Aggregator,
    ConstantNorm,
    EntropyRatioClip,
    GSPOToken,
    ImportanceWeighted,
    MaskedImportanceWeighted,
    MinPrefixRatio,
    OptimalAdvantageRegression,
    PolicyObjective,
    PPOClip,
    RatioVariance,
    Reinforce,
    SequenceMean,
    SequenceSum,
    SoLS,
    TokenMean,
    TrajectoryBellmanResidual,
)
from rl4llm.parts import Part
from rl4llm.regularizers import (
    Constrained,
    EntropyBonus,
    KLPenalty,
    KLReward,
    Likelihood,
    LogRatioPenalty,
    RatioPenalty,
    Regularizer,
    ValueRegression,
)
from rl4llm.rewards import OverlongPenalty, RewardShaping
from rl4llm.segments import FixedTokens
from rl4llm.testing import broken, describe, laws_of, rollouts
from rl4llm.testing.views import outputs, own_inputs

for module in pkgutil.walk_packages(rl4llm.__path__, "rl4llm."):
    importlib.import_module(module.name)

# One or more instances of every component; every field takes a value other than its default in at least one of them.
EXAMPLES = {
    GAE: [GAE(gamma=0.9, lam=0.5, lam_returns=0.7), GAE()],
    LengthAdaptiveGAE: [LengthAdaptiveGAE(gamma=0.9, alpha=0.4, lam_returns=0.8)],
    MonteCarlo: [MonteCarlo(gamma=0.9)],
    GroupRelative: [GroupRelative(normalize_std=False), GroupRelative(unbiased=False)],
    LeaveOneOut: [LeaveOneOut()],
    CorrectnessRelative: [CorrectnessRelative(min_correct=0.5)],
    OptimalBaseline: [OptimalBaseline()],
    MaxRL: [MaxRL()],
    QuantileRelative: [QuantileRelative(quantile=0.6)],
    PassAtKTraining: [PassAtKTraining(k=2)],
    SingleStream: [SingleStream()],
    ConstantBaseline: [ConstantBaseline(baseline=0.3), ConstantBaseline()],
    SegmentMonteCarlo: [SegmentMonteCarlo()],
    Whiten: [Whiten(), Whiten(level="response"), Whiten(level="group", unbiased=False)],
    AgreementGate: [AgreementGate(fraction=0.4), AgreementGate(exact=True)],
    DivergenceFilter: [DivergenceFilter(fraction=0.4), DivergenceFilter(exact=True)],
    HighEntropy: [HighEntropy(fraction=0.4), HighEntropy(exact=True)],
    WideReturns: [WideReturns(fraction=0.4), WideReturns(exact=True)],
    NarrowReturns: [NarrowReturns(fraction=0.4), NarrowReturns(exact=True)],
    LowEntropy: [LowEntropy(fraction=0.4), LowEntropy(exact=True)],
    UndecidedStates: [UndecidedStates(fraction=0.4, low=-1.0, high=2.0), UndecidedStates(exact=True)],
    AdvantageMagnitude: [AdvantageMagnitude(fraction=0.4), AdvantageMagnitude(exact=True)],
    RandomGate: [RandomGate(fraction=0.4, seed=7)],
    CovarianceGate: [
        CovarianceGate(fraction=0.4, low=-0.3, high=2.0, seed=7),
        CovarianceGate(fraction=0.4, low=-9.0, clip_low=0.2, clip_high=0.3),
        CovarianceGate(),
    ],
    HighCovariance: [HighCovariance(fraction=0.4), HighCovariance()],
    FinishedResponses: [FinishedResponses(), FinishedResponses(in_divisor=True)],
    CorrectResponses: [CorrectResponses(threshold=0.3), CorrectResponses(in_divisor=True)],
    Both: [AgreementGate(fraction=0.3) & ~HighEntropy(fraction=0.5)],
    Either: [AdvantageMagnitude(fraction=0.3) | DivergenceFilter(fraction=0.5)],
    Complement: [~RandomGate(fraction=0.3)],
    Reinforce: [Reinforce()],
    ImportanceWeighted: [ImportanceWeighted()],
    MaskedImportanceWeighted: [MaskedImportanceWeighted(clip_low=0.8, clip_high=3.0), MaskedImportanceWeighted()],
    PPOClip: [PPOClip(clip_low=0.1, clip_high=0.3, dual_clip=3.0), PPOClip()],
    DPPO: [
        DPPO(delta_low=0.1, delta_high=0.2, weight_cap=5.0),
        DPPO("kl", anchor="old"),
        DPPO("topk_tv", delta_low=0.01, delta_high=0.01),
        DPPO("topk_kl", delta_low=0.01, delta_high=0.01),
    ],
    MinPrefixRatio: [MinPrefixRatio(clip_low=0.5, clip_high=2.0, cap_prefix_at_one=True), MinPrefixRatio()],
    RatioVariance: [RatioVariance(multiplier=0.3)],
    CISPO: [CISPO(clip_low=0.5, clip_high=2.0)],
    SAPO: [SAPO(tau_positive=2.0, tau_negative=3.0)],
    SoLS: [SoLS(clip=0.1)],
    TOPR: [TOPR(), TOPR(whole_response=False)],
    GSPO: [GSPO(), GSPO(clip_low=0.1, clip_high=0.2)],
    GSPOToken: [GSPOToken(clip_low=0.1, clip_high=0.2)],
    GMPO: [GMPO(clip=0.1)],
    EntropyRatioClip: [EntropyRatioClip(DPPO("topk_tv"), clip_low=0.5, clip_high=0.7)],
    OptimalAdvantageRegression: [OptimalAdvantageRegression(beta=0.1)],
    TrajectoryBellmanResidual: [TrajectoryBellmanResidual(beta=0.1), TrajectoryBellmanResidual(calibrated=True)],
    REBEL: [REBEL(eta=0.5)],
    TokenMean: [TokenMean()],
    SequenceMean: [SequenceMean()],
    SequenceSum: [SequenceSum()],
    ConstantNorm: [ConstantNorm(max_tokens=7)],
    EntropyBonus: [EntropyBonus(coef=0.5, where=DivergenceFilter(fraction=0.4))],
    KLPenalty: [
        KLPenalty(coef=0.5, estimator=k, where=HighEntropy(), unbiased_gradient=k == "k1") for k in ("k1", "k2")
    ]
    + [KLPenalty(), KLPenalty(clip=0.5, aggregator=SequenceSum())],
    KLReward: [KLReward(coef=0.5, estimator="k3"), KLReward()],
    RatioPenalty: [RatioPenalty(coef=0.5, where=HighEntropy())],
    LogRatioPenalty: [LogRatioPenalty(coef=0.5, where=HighEntropy())],
    Likelihood: [Likelihood(coef=0.5, where=AdvantageMagnitude())],
    ValueRegression: [ValueRegression(coef=0.3, where=HighEntropy())],
    Constrained: [
        Constrained(RatioPenalty(where=HighEntropy()), limit=0.04, initial=0.5, lr=0.1, maximum=2.0),
        Constrained(KLPenalty(), limit=0.1),
    ],
    OverlongPenalty: [OverlongPenalty(max_tokens=6, cache_tokens=4, coef=0.5)],
    TruncatedImportance: [TruncatedImportance(cap=1.2, level="response"), TruncatedImportance()],
    IcePop: [IcePop(low=0.9, high=1.1), IcePop()],
    MaskedImportance: [
        MaskedImportance(low=0.8, high=1.2, level="response"),
        MaskedImportance(),
        MaskedImportance(in_divisor=True),
    ],
    SquaredValueLoss: [SquaredValueLoss()],
    ClippedValueLoss: [ClippedValueLoss(clip=0.5)],
    LinearHead: [LinearHead()],
    BoundedHead: [BoundedHead(low=-1.0, high=2.0)],
    SigmoidHead: [SigmoidHead()],
    HistogramHead: [HistogramHead(low=-1.0, high=2.0, bins=7, sigma=0.5, target="density"), HistogramHead()],
    QuantileHead: [QuantileHead(count=3, kappa=0.5), QuantileHead()],
    NoiseNormalizedValueLoss: [
        NoiseNormalizedValueLoss(floor=0.1, power=1.0, loss=ClippedValueLoss(clip=0.4)),
        NoiseNormalizedValueLoss(),
    ],
}

WIDTHS_OF_A_WEIGHT = [(c, f) for c in (CISPO, MinPrefixRatio) for f in ("clip_low", "clip_high")]
WIDTHS_OF_TWO_SIDES = [(MaskedImportanceWeighted, f) for f in ("clip_low", "clip_high")]
WIDTHS_OF_RESPONSES = [(c, f) for c in (GSPO, GSPOToken) for f in ("clip_low", "clip_high")]
OWN_SCALES = (RatioPenalty, LogRatioPenalty, Likelihood, ValueRegression)

# (class, field): why its default differs from that of the siblings.
DEFAULTS_THAT_DIFFER = {
    (CovarianceGate, "fraction"): "the paper drops two tokens in ten thousand",
    (UndecidedStates, "low"): "the smallest score, not a bound of covariances",
    (UndecidedStates, "high"): "the largest score, not a bound of covariances",
    (HighCovariance, "fraction"): "the share that is kept, as the paper names it: two tokens in a thousand",
    (MaskedImportance, "low"): "bounds of a mean over the response, far tighter than those of one token",
    (MaskedImportance, "high"): "bounds of a mean over the response, far tighter than those of one token",
    (TruncatedImportance, "level"): "one weight a token; the mask of responses has no such level",
    (OverlongPenalty, "coef"): "the largest charge beside a score of 1, not the weight of a divergence",
    (HighEntropy, "fraction"): "the paper keeps 20 %, so it drops 0.8; the others drop 0.2",
    **dict.fromkeys(WIDTHS_OF_A_WEIGHT, "widths of a weight, not of a mask: no floor, a high ceiling"),
    **dict.fromkeys(WIDTHS_OF_TWO_SIDES, "a mask for either sign of the advantage, wide enough to drop outliers only"),
    **dict.fromkeys(WIDTHS_OF_RESPONSES, "widths of a mean over a response, which moves far less than a token's ratio"),
    **dict.fromkeys([(EntropyRatioClip, f) for f in ("clip_low", "clip_high")], "widths of a ratio of entropies"),
    **dict.fromkeys([(c, "coef") for c in OWN_SCALES], "each penalty has its own scale; the paper's weight"),
    **dict.fromkeys([(HistogramHead, f) for f in ("low", "high")], "ends of a support, beyond those of the returns"),
    (GMPO, "clip"): "width of a log-ratio, not of a ratio",
    (TrajectoryBellmanResidual, "beta"): "the two papers differ, and so does the scale of their losses",
    (LengthAdaptiveGAE, "lam_returns"): "VAPO's targets are Monte Carlo returns; GAE's follow its own λ",
}

# Functions that move numbers about instead of saying mathematics: they need no references, and their one line says
# what comes in and out.
BUILDING_BLOCKS = {
    "at_first_token",
    "binary_kl",
    "binary_tv",
    "divergence_mask",
    "drop_smallest",
    "engine_log_ratio",
    "learns_from",
    "mass_kl",
    "mass_tv",
    "response_count",
    "score_responses",
    "response_log_ratio",
    "result_dtype",
    "reverse_linear_scan",
    "scored_responses",
    "segment_starts",
    "consecutive_segments",
    "spread",
    "tangent_exp",
    "token_count",
    "token_log_ratio",
    "token_ratio",
    "top_masses",
}

FAMILIES = (AdvantageEstimator, Gate, PolicyObjective, Aggregator, Regularizer, ValueLoss, Head, Correction)
FAMILIES += (RewardShaping,)
FAMILY_PACKAGES = (
    "advantages",
    "corrections",
    "critics",
    "gates",
    "objectives",
    "regularizers",
    "rewards",
    "metrics",
    "segments",
)


def finals(base: type) -> list[type]:
    """The classes of the library that can be built, below a base."""
    ours = base.__module__.startswith("rl4llm") and not base.__module__.startswith("rl4llm.testing")
    found = [base] if ours and not inspect.isabstract(base) else []
    return found + [final for child in base.__subclasses__() for final in finals(child)]


SIBLINGS = {base: sorted(set(finals(base)), key=lambda c: c.__name__) for base in (*FAMILIES, Whiten)}
COMPONENTS = [component for siblings in SIBLINGS.values() for component in siblings]
PARTS = [pytest.param(part, id=repr(part)) for component in COMPONENTS for part in EXAMPLES.get(component, [])]
NAMESPACE = {component.__name__: component for component in COMPONENTS}

EXAMPLES_PER_LAW, NIGHTLY = min(25, settings().max_examples // 2), settings().max_examples > 1000
SOURCES = [
    BetaTracker(samples=0).build("", None),
    GreedyValue().build("", None),
    MonteCarloValues(samples=2, segmenter=FixedTokens(2)).build("", None),
    Tether(BetaTracker(samples=0), decay=0.5).build("", None),
    Readiness(BetaTracker(samples=0), window=1, valid=1).build("", None),
    ExplainedVarianceSwitch(BetaTracker(samples=0), threshold=-5.0, lag=1).build("", None),
    CrossRolloutProbe(span=2, window=2).build("", None),
    TrunkCritic().build(
        "", Policy(*TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build())
    ),
]
LAWS_OF_PARTS = [
    pytest.param(part, law, id=f"{part!r}: {law.name}")
    for part in [*(param.values[0] for param in PARTS), *SOURCES]
    for law in laws_of(part)
]

each_component = pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: c.__name__)
each_part = pytest.mark.parametrize("part", PARTS)


# --- values ---------------------------------------------------------------------------------------------------------


@each_component
def test_component_has_an_example(component):
    assert component in EXAMPLES, (
        f"{component.__name__} ({component.__module__}) is a component without an example: add an instance with "
        "non-default values to EXAMPLES in tests/contracts/test_components.py"
    )


@each_component
def test_examples_change_every_field(component):
    for field in dataclasses.fields(component):
        assert any(getattr(part, field.name) != field.default for part in EXAMPLES[component]), field.name


@each_component
def test_component_is_a_frozen_dataclass(component):
    assert dataclasses.is_dataclass(component)
    assert component.__dataclass_params__.frozen
    assert component.__dataclass_params__.eq


@each_component
def test_paper_is_named(component):
    assert isinstance(component.paper, str), f"{component.__name__}.paper is no string"
    assert any("paper" in vars(base) for base in component.__mro__ if base is not Part), (
        f"{component.__name__} names none"
    )


@each_component
def test_every_field_is_documented(component):
    documented = re.findall(r"^\s+(\w+): \S", component.__doc__.partition("Args:")[2], re.MULTILINE)
    missing = [field.name for field in dataclasses.fields(component) if field.name not in documented]
    assert not missing, f"{component.__name__} does not document {missing} under Args:"


@each_part
def test_setting_a_field_raises(part):
    for name in [field.name for field in dataclasses.fields(part)] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


@functools.cache
def any_batch():
    """A batch with a trained token."""
    return find(rollouts(), lambda batch: bool(batch.response_mask.any()), settings=settings(phases=[Phase.generate]))


@each_part
def test_a_field_that_the_batch_lacks_is_named(part):
    batch = any_batch()
    for field in set(part.reads) & set(batches.SOURCES):
        with pytest.raises(UsageError, match=rf"^\w+ needs {field}, which this batch does not hold") as caught:
            outputs(part, batch.replace(**{field: None}), own_inputs(part, batch))
        assert str(caught.value).split()[0] in repr(part)


@each_part
def test_nonsense_in_a_field_is_one_line_that_names_the_component(part, unchecked_shapes):
    for field in dataclasses.fields(part):
        nonsense = {float: float("nan"), str: "nonsense"}.get(type(getattr(part, field.name)))
        if nonsense is not None:
            with pytest.raises(UsageError, match=rf"^{type(part).__name__}: .*\b{field.name}\b") as caught:
                dataclasses.replace(part, **{field.name: nonsense})
            assert "\n" not in str(caught.value)


@each_part
def test_equal_values_are_equal_and_hash_alike(part):
    copy = dataclasses.replace(part)
    assert copy == part
    assert hash(copy) == hash(part)
    assert all(part != other for param in PARTS for other in param.values if other is not part)


@each_part
def test_part_survives_pickling(part):
    assert pickle.loads(pickle.dumps(part)) == part


@each_part
def test_representation_evaluates_to_the_part(part):
    assert eval(repr(part), dict(NAMESPACE)) == part


@pytest.mark.parametrize("base", SIBLINGS, ids=lambda base: base.__name__)
def test_fields_of_one_name_have_one_default(base):
    seen = {}
    for component in SIBLINGS[base]:
        for field in dataclasses.fields(component):
            if field.default is dataclasses.MISSING or (component, field.name) in DEFAULTS_THAT_DIFFER:
                continue
            first, default = seen.setdefault(field.name, (component, field.default))
            assert field.default == default, (
                f"{component.__name__}.{field.name}={field.default} but {first.__name__}.{field.name}={default}; a "
                "flag keeps its value when the class is swapped. Make them equal, or give a reason in "
                "DEFAULTS_THAT_DIFFER"
            )


@pytest.mark.parametrize(("component", "field"), DEFAULTS_THAT_DIFFER, ids=str)
def test_exceptions_to_common_defaults_are_still_needed(component, field):
    default = component.__dataclass_fields__[field].default
    (siblings,) = [siblings for siblings in SIBLINGS.values() if component in siblings]
    others = [
        other.__dataclass_fields__[field] for other in siblings if other is not component and field in fields_of(other)
    ]
    assert any(other.default != default for other in others)


def fields_of(component):
    """Names of the fields."""
    return {field.name for field in dataclasses.fields(component)}


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [*PARTS, *SOURCES], ids=lambda part: repr(part)[:60])
def test_shapes_and_types_are_as_annotated(part):
    failure = broken(part, laws_of(part)[0], examples=EXAMPLES_PER_LAW)  # with every annotation checked
    assert failure is None, f"{part!r}\n{failure}"


@pytest.mark.parametrize(("part", "law"), LAWS_OF_PARTS)
def test_law_holds(part, law, unchecked_shapes):
    failure = broken(part, law, examples=EXAMPLES_PER_LAW)
    assert failure is None, f"{part!r}\n{failure}"


@pytest.mark.skipif(not NIGHTLY, reason="20,000 examples a law: RL4LLM_PROFILE=nightly")
@pytest.mark.parametrize("share", range(20))
def test_every_law_holds_on_many_batches(share, unchecked_shapes):
    """Every batch tests every law, each on one of the components that must keep it."""
    keepers = {}
    for part, law in (param.values for param in LAWS_OF_PARTS):
        keepers.setdefault(law, []).append(part)

    @settings(max_examples=settings().max_examples // 20, database=None, phases=[Phase.generate])
    @given(batch=rollouts(), number=st.integers(0, 2**32))
    def trial(batch, number):
        for law, parts in keepers.items():
            part = Random(f"{number} {law.name}").choice(parts)
            try:
                law.test(part, batch, Random(number))
            except Exception as error:
                raise AssertionError(f"{part!r} breaks {law.name!r}: {error}\n{describe(batch, part)}") from error

    trial()


# --- documentation --------------------------------------------------------------------------------------------------


def public_functions():
    """Every function in the `__all__` of a family, by its name."""
    packages = [importlib.import_module(f"rl4llm.{name}") for name in FAMILY_PACKAGES]
    named = {name: getattr(package, name) for package in packages for name in package.__all__}
    return {name: thing for name, thing in named.items() if inspect.isfunction(thing)}


@pytest.mark.parametrize("name", public_functions())
def test_function_says_what_it_takes_and_gives(name):
    doc = inspect.getdoc(public_functions()[name]) or ""
    elsewhere = re.search(r"[Aa]rguments.*\bas\s+in\s+\[", doc, re.DOTALL)
    needed = {"Example:": ">>>" in doc}
    if name not in BUILDING_BLOCKS:
        needed["Args:"] = "Args:" in doc or bool(elsewhere)
        needed["Returns:"] = "Returns" in doc or bool(elsewhere)
        needed["References:"] = "References:" in doc
    missing = [section for section, there in needed.items() if not there]
    assert doc, f"{name} has no docstring"
    assert not missing, f"the docstring of {name} lacks {', '.join(missing)}"
