"""Gates choose the response tokens that contribute to a term of the loss; `&`, `|` and `~` compose them."""

from rl4llm.gates.agreement import AgreementGate, agreement_gate
from rl4llm.gates.base import Both, Complement, Either, Gate
from rl4llm.gates.covariance import (
    CovarianceGate,
    HighCovariance,
    clipped_tokens,
    covariance,
    covariance_gate,
    high_covariance,
)
from rl4llm.gates.divergence import DivergenceFilter, divergence_filter
from rl4llm.gates.entropy import HighEntropy, LowEntropy, high_entropy, low_entropy
from rl4llm.gates.noise import content_noise
from rl4llm.gates.outcome import CorrectResponses, FinishedResponses, correct_responses, finished_responses
from rl4llm.gates.ranked import ShareGate
from rl4llm.gates.share import AdvantageMagnitude, RandomGate, advantage_magnitude, drop_smallest, random_gate
from rl4llm.gates.spread import NarrowReturns, WideReturns, narrow_returns, wide_returns
from rl4llm.gates.undecided import UndecidedStates, undecided_states

__all__ = [
    # base
    "Gate",
    "ShareGate",
    # by critics' spread
    "agreement_gate",
    "AgreementGate",
    "divergence_filter",
    "DivergenceFilter",
    # by entropy
    "high_entropy",
    "HighEntropy",
    "low_entropy",
    "LowEntropy",
    # by covariance of log-prob and advantage
    "clipped_tokens",
    "covariance",
    "covariance_gate",
    "CovarianceGate",
    "high_covariance",
    "HighCovariance",
    # by what became of the response
    "correct_responses",
    "CorrectResponses",
    "finished_responses",
    "FinishedResponses",
    # controls
    "undecided_states",
    "UndecidedStates",
    "wide_returns",
    "WideReturns",
    "narrow_returns",
    "NarrowReturns",
    "advantage_magnitude",
    "AdvantageMagnitude",
    "random_gate",
    "RandomGate",
    # composition
    "Both",
    "Either",
    "Complement",
    # the shared core
    "content_noise",
    "drop_smallest",
]
