"""The loss of TRL's GRPOTrainer as a function of tensors: its method, called with a stand-in for the trainer.

TRL has no function of a loss; the method reads the settings of its trainer and the log-probs of a model. The stand-in
holds the settings and hands out the log-probs that it is given, and the method is TRL's own.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class _Accelerator:
    """One process."""

    num_processes = 1

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def pad_across_processes(self, tensor: Tensor, dim: int = 0, pad_index: float = 0.0) -> Tensor:
        return tensor


def _trainer(trainer: type, **settings: Any) -> SimpleNamespace:
    defaults: dict[str, Any] = {
        "accelerator": _Accelerator(),
        "args": SimpleNamespace(
            delta=None,
            use_bias_correction_kl=False,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            vespo_k_pos=2.0,
            vespo_lambda_pos=3.0,
            vespo_k_neg=3.0,
            vespo_lambda_neg=2.0,
            steps_per_generation=1,
        ),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "model": SimpleNamespace(training=False),
        "max_completion_length": 8,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "get_gamma_weights": getattr(trainer, "get_gamma_weights", None),
    }
    return SimpleNamespace(**{**defaults, **settings})


def _loss(
    trainer: type, log_probs: Tensor, mask: Tensor, inputs: dict[str, Tensor], settings: dict[str, Any]
) -> Tensor:
    mine = _trainer(trainer, **settings)
    mine._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None)
    ids = torch.zeros_like(mask, dtype=torch.long)
    batch = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids, "completion_mask": mask}
    return trainer._compute_loss(mine, None, {**batch, "num_items_in_batch": mask.sum(), **inputs})


def grpo_loss(old_log_probs: Tensor, log_probs: Tensor, advantages: Tensor, mask: Tensor, **settings: Any) -> Tensor:
    """GRPOTrainer's loss; `settings` are those of the trainer, `loss_type="grpo"` among them."""
    from trl import GRPOTrainer

    inputs = {"advantages": advantages, "old_per_token_logps": old_log_probs}
    return _loss(GRPOTrainer, log_probs, mask, inputs, settings)


def rloo_loss(old_log_probs: Tensor, log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """RLOOTrainer's loss, of whole responses."""
    from trl import RLOOTrainer

    old = (old_log_probs * mask).sum(1)
    return _loss(RLOOTrainer, log_probs, mask, {"advantages": advantages[:, 0], "old_logps": old}, {})


def high_entropy_mask(entropies: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """GRPOTrainer's mask of tokens with high entropy."""
    from trl import GRPOTrainer

    return GRPOTrainer.get_high_entropy_mask(_trainer(GRPOTrainer), entropies, mask, threshold)
