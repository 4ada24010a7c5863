"""One step of TRL's trainer with our parts on a fixed batch, shared out over the processes that run this file."""

import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl4llm.bridges.trl import with_parts
from rl4llm.objectives import PPOClip, TokenMean
from tests.bridges.ragged import ragged


def fixed(trainer_class):
    """A trainer that draws the same eight responses, whatever the number of its processes."""

    class Fixed(trainer_class):
        def _generate_and_score_completions(self, inputs):
            drawn, rows = ragged(0), 8 // self.accelerator.num_processes
            self._scores = torch.zeros(8)
            own = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
            return {
                "prompt_ids": drawn.ids[own, :2] % 10 + 4,
                "prompt_mask": torch.ones_like(drawn.ids[own, :2]),
                "completion_ids": drawn.ids[own] % 10 + 4,
                "completion_mask": drawn.mask[own].int(),
                "advantages": drawn.per_response[own].float(),
                "num_items_in_batch": drawn.mask.sum(),
            }

    return Fixed


def main(folder, out, microbatches):
    from trl import GRPOConfig, GRPOTrainer  # not at the top: whoever collects tests imports this file

    processes = 2 if torch.distributed.is_torchelastic_launched() else 1
    args = GRPOConfig(
        output_dir=out,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        max_grad_norm=1e9,
        max_steps=1,
        num_generations=4,
        per_device_train_batch_size=8 // processes // int(microbatches),
        gradient_accumulation_steps=int(microbatches),
    )
    trainer = with_parts(fixed(GRPOTrainer), objective=PPOClip(), aggregator=TokenMean())(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["123456="] * 8}),
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        weights = [weight.detach().flatten() for weight in trainer.accelerator.unwrap_model(trainer.model).parameters()]
        torch.save(torch.cat(weights), f"{out}/weights.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
