"""The laws of policy objectives: what they come to where the policy has not moved."""

from random import Random

import torch

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.objectives import PolicyObjective
from rl4llm.testing.faults import FaultError
from rl4llm.testing.laws import Law, close
from rl4llm.testing.reference.coefficients import coefficients
from rl4llm.testing.reference.oracles import COEFFICIENTS
from rl4llm.testing.views import attached, outputs, own_inputs, with_gradient


def shape_of_its_level(part: PolicyObjective, batch: RolloutBatch, random: Random) -> None:
    """One loss a token or one a response, as `level` says."""
    (loss,) = outputs(part, batch)
    expected = batch.response_mask.shape if part.level == "token" else batch.response_mask.shape[:1]
    assert loss.shape == expected, f"level is {part.level!r}, and the loss has shape {tuple(loss.shape)}"


def policy_gradient_at_ratio_one(part: PolicyObjective, batch: RolloutBatch, random: Random) -> None:
    """While the policy is the one that acted, the gradient is the policy gradient, where that is declared."""
    if not part.is_policy_gradient:
        return
    same = batch.replace(old_log_probs=batch.rollout_log_probs)
    inputs = {name: x.detach().clone().requires_grad_() for name, x in own_inputs(part, same).items()}
    attached(part(PolicyOutput(**inputs), same)).sum().backward()
    gradient, mask = inputs["log_probs"].grad, batch.response_mask
    assert gradient is not None
    assert batch.advantages is not None
    expected = torch.where(mask, -batch.advantages, 0.0)
    if part.level == "response":  # its advantage is the mean over the response, shared out evenly
        counts = mask.sum(-1, keepdim=True).clamp(min=1)
        expected = torch.where(mask, expected.sum(-1, keepdim=True) / counts**2, 0.0)
    flipped = bool(expected.any()) and torch.allclose(gradient, -expected, rtol=1e-9, atol=1e-9)
    if flipped:
        said = "the sign is flipped: at ratio 1 the gradient is −1 times the policy gradient"
        raise FaultError(said, "negate the loss: it is minimized, while advantages are to be gained")
    close(gradient, expected, "at ratio 1 the gradient")


def no_advantage_no_gradient(part: PolicyObjective, batch: RolloutBatch, random: Random) -> None:
    """Where no response was better than expected, a policy gradient is zero at ratio 1."""
    if part.is_policy_gradient:
        silent = batch.replace(advantages=torch.zeros_like(batch.rewards), old_log_probs=batch.rollout_log_probs)
        leaves = with_gradient(silent)
        inputs = {name: x.detach().clone().requires_grad_() for name, x in own_inputs(part, leaves).items()}
        attached(part(PolicyOutput(**inputs), silent)).sum().backward()
        assert not inputs["log_probs"].grad.any(), "there is a gradient without any advantage"  # type: ignore[union-attr]


def gradient_of_its_reference(part: PolicyObjective, batch: RolloutBatch, random: Random) -> None:
    """The gradient is that of the slow reference, where there is one."""
    if type(part) not in COEFFICIENTS:
        return
    batch = _near(batch)
    inputs = {name: x.detach().clone() for name, x in own_inputs(part, batch).items()}
    inputs["entropies"] *= (
        1 + torch.tensor([random.choice([-0.6, -0.04, 0.04, 0.6]) for _ in range(len(batch))])[:, None]
    )
    inputs["log_probs"].requires_grad_()
    attached(part(PolicyOutput(**inputs), batch)).sum().backward()
    gradient = inputs["log_probs"].grad
    assert gradient is not None
    policy = {name: tensor.detach() for name, tensor in inputs.items()}
    expected = -coefficients(COEFFICIENTS[type(part)], part, policy, batch)
    size = 1e-9 * (1 + expected.abs().max())
    assert ((gradient - expected).abs() <= size + 1e-6 * expected.abs()).all(), (
        f"the gradient is {gradient.tolist()}, and that of the reference {expected.tolist()}"
    )


def _near(batch: RolloutBatch) -> RolloutBatch:
    """The batch with log-ratios of at most 15, beyond which exponentials are continued by their tangents."""
    (reference,) = batch.require("ref_log_probs", by="objective_laws")
    new, others = batch.rollout_log_probs, {"old_log_probs": batch.old_log_probs, "ref_log_probs": reference}
    return batch.replace(**{name: new + (other - new).clamp(-15.0, 15.0) for name, other in others.items()})


OBJECTIVES = (
    Law(
        "a loss for each token or response, as declared", shape_of_its_level, "declare level='response' or reduce less"
    ),
    Law(
        "the policy gradient while the policy has not moved",
        policy_gradient_at_ratio_one,
        "check that the ratio is 1 there and not clipped away, and that nothing is divided by a count",
    ),
    Law(
        "the gradient is that of the slow reference",
        gradient_of_its_reference,
        "compare case by case with rl4llm.testing.reference.coefficients",
    ),
    Law("no advantage, no gradient", no_advantage_no_gradient, "put penalties into regularizers"),
)
