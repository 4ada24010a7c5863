"""REINFORCE++ (arXiv:2501.03262): no groups; advantages are normalized over all tokens of the batch."""

from rl4llm.advantages import AdvantageEstimator, MonteCarlo, Whiten
from rl4llm.algorithms import PolicyGradient
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import KLReward


def reinforce_plus_plus(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    advantage: AdvantageEstimator = MonteCarlo(),
    whitening: Whiten | None = Whiten(level="token"),
    kl_reward: KLReward | None = KLReward(coef=1e-3, estimator="k1"),
    responses_per_prompt: int = 1,
    **options: object,
) -> PolicyGradient:
    """Train a policy against the mean of the whole batch.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From advantages to the policy's loss.
        advantage: The return of each token; GroupRelative with normalize_std=false is the paper's baseline form.
        whitening: Normalizes the advantages over the tokens of the rollout batch.
        kl_reward: Divergence from the reference policy, in the reward.
        responses_per_prompt: Responses to each prompt: one is enough.
        options: Any other slot of `PolicyGradient`.
    """
    baseline = {"advantage": advantage, "whitening": whitening, "kl_reward": kl_reward}
    return PolicyGradient(policy, objective=objective, responses_per_prompt=responses_per_prompt, **baseline, **options)


if __name__ == "__main__":
    RecipeCLI(
        reinforce_plus_plus, PromptData, max_steps=200, val_check_interval=50, data_defaults={"prompts_per_step": 256}
    )
