"""A run that is saved between any two batches goes on with exactly the next one."""

import contextlib
import shutil

import lightning
import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.runs import CheckpointFiles, Checkpoints
from tests.runs.toy import BATCHES, Data, KillBefore, Killed, Log, Module, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {
    "by steps": {},
    "by epochs": {"max_steps": -1, "max_epochs": 3},
    "evaluated by epoch": {"check_val_every_n_epoch": 1, "val_check_interval": 2},
    "evaluated at its end": {"check_val_every_n_epoch": 1, "val_check_interval": BATCHES},
    "without evaluation": {"limit_val_batches": 0},
}


class Keeping(Checkpoints):
    """Keeps a copy of `last.ckpt` of every batch."""

    def _save(self, trainer, *names):
        super()._save(trainer, *names)
        if "last.ckpt" in names:
            for suffix in ("", ".sha256"):
                shutil.copy(f"{self.last_model_path}{suffix}", f"{self.dirpath}/{trainer.global_step}.ckpt{suffix}")


def fit(folder, options, ckpt_path=None, batches=-1, every=1):
    log, module, keeping = Log(), Module(), Keeping("toy", every_n_batches=every, folder=folder)
    run = trainer([KillBefore(batches), keeping], folder, logger=log, **options)
    with contextlib.suppress(Killed):
        run.fit(module, Data(), ckpt_path=ckpt_path)
    return module, run, log


def ends(module, run, log):
    tensors = [value for value in module.state_dict().values() if isinstance(value, torch.Tensor)]
    moments = [o.state_dict()["state"] for o in run.optimizers]
    return tensors + [torch.as_tensor(v) for m in moments for s in m.values() for v in s.values()]


def assert_same_end(a, b):
    assert all(torch.equal(x, y) for x, y in zip(ends(*a), ends(*b), strict=True))
    assert a[0].tracker.seen == b[0].tracker.seen
    assert a[1].global_step == b[1].global_step


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_any_batch_it_does_the_rest_and_nothing_twice(kind, tmp_path):
    module, run, log = whole = fit(tmp_path, KINDS[kind])
    steps = run.global_step
    assert len(module.prompts) == steps == (12 if kind == "by epochs" else 11)
    for step in range(1, steps):
        resumed = fit(tmp_path / "again", KINDS[kind], ckpt_path=tmp_path / f"{step}.ckpt")
        assert resumed[0].prompts == module.prompts[step:], step
        assert resumed[0].evaluations == [e for e in module.evaluations if e > step], step
        assert resumed[2].lines == log.lines[len(log.lines) - len(resumed[2].lines) :], step
        assert {line[0] for line in resumed[2].lines} >= set(range(step, steps)), step
        assert_same_end(resumed, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_every_single_batch_it_still_arrives_at_the_same_end(kind, tmp_path):
    module, run, log = whole = fit(tmp_path / "whole", KINDS[kind])
    path, prompts, evaluations, lines = None, [], [], []
    for _ in range(run.global_step):
        part = fit(tmp_path, KINDS[kind], ckpt_path=path, batches=1)
        path = tmp_path / "last.ckpt"
        prompts, evaluations = prompts + part[0].prompts, evaluations + part[0].evaluations
        lines += part[2].lines
    assert prompts == module.prompts
    assert evaluations == module.evaluations
    assert [line for line in lines if line[0] is not None] == log.lines
    assert_same_end(part, whole)


def test_a_finished_run_does_nothing_more(tmp_path):
    fit(tmp_path, {})
    module, run, log = fit(tmp_path, {}, ckpt_path=tmp_path / "last.ckpt")
    assert (module.prompts, module.evaluations, log.lines) == ([], [], [])
    assert run.global_step == 11


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("steps", [4, 5, 6])
def test_a_finished_run_can_be_made_longer(every, steps, tmp_path):
    longer, _, log = whole = fit(tmp_path / "whole", {"max_steps": 11}, every=100)
    first, _, _ = fit(tmp_path, {"max_steps": steps}, every=every)
    rest, _, rest_log = resumed = fit(tmp_path, {"max_steps": 11}, ckpt_path=tmp_path / "last.ckpt", every=every)
    assert first.prompts + rest.prompts == longer.prompts
    assert first.evaluations + rest.evaluations == longer.evaluations
    assert rest_log.lines == log.lines[len(log.lines) - len(rest_log.lines) :]
    assert_same_end(resumed, whole)


def test_killed_within_an_evaluation_it_is_made_again(tmp_path):
    class KillWithin(lightning.Callback):
        def on_validation_batch_start(self, run, *args):
            if run.global_step == 6:
                raise Killed

    whole, first, rest = Module(), Module(), Module()
    trainer([], tmp_path, logger=False, enable_checkpointing=False).fit(whole, Data())
    run = trainer([KillWithin(), Checkpoints("toy", every_n_batches=1, folder=tmp_path)], tmp_path, logger=False)
    with contextlib.suppress(Killed):
        run.fit(first, Data())
    again = trainer([Checkpoints("toy", folder=tmp_path)], tmp_path, logger=False)
    again.fit(rest, Data(), ckpt_path=tmp_path / "last.ckpt")
    assert first.prompts[:-1] + rest.prompts == whole.prompts
    assert first.evaluations + rest.evaluations == whole.evaluations


def test_it_saves_every_so_many_batches_and_at_the_end(tmp_path):
    keeping = Keeping("toy", every_n_batches=4, folder=tmp_path)
    trainer([keeping], tmp_path, logger=False).fit(Module(), Data())
    assert sorted(int(path.stem) for path in tmp_path.glob("[0-9]*.ckpt")) == [4, 8, 11]


def test_a_requested_save_comes_at_the_end_of_the_batch_and_once(tmp_path):
    keeping = Keeping("toy", every_n_batches=100, folder=tmp_path)

    class Asking(KillBefore):
        def on_train_batch_start(self, run, *args):
            if run.global_step == 4:
                keeping.request_save()

    trainer([Asking(0), keeping], tmp_path, logger=False).fit(Module(), Data())
    assert sorted(int(path.stem) for path in tmp_path.glob("[0-9]*.ckpt")) == [5, 11]


def test_the_best_evaluation_is_kept_and_its_score_survives_a_resume(tmp_path):
    def outlook(step):
        return {3: 0.5, 6: 0.9, 9: 0.7}.get(step, 0.0)

    def best():
        return CheckpointFiles().load_checkpoint(tmp_path / "best.ckpt")["global_step"]

    checkpoints = Checkpoints("toy", every_n_batches=7, folder=tmp_path)
    trainer([checkpoints], tmp_path, logger=False, max_steps=7).fit(Module(outlook=outlook), Data())
    assert best() == 6
    again = Checkpoints("toy", every_n_batches=7, folder=tmp_path)
    trainer([again], tmp_path, logger=False).fit(Module(outlook=outlook), Data(), ckpt_path=tmp_path / "last.ckpt")
    assert best() == 6
    assert again.best_score == pytest.approx(0.9)


def test_it_takes_the_place_of_lightnings_own_checkpoints(tmp_path):
    run = trainer([Checkpoints("toy")], tmp_path, logger=False, max_steps=2)
    run.fit(Module(), Data())
    assert [type(callback).__name__ for callback in run.checkpoint_callbacks] == ["Checkpoints"]
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {"checkpoints/last.ckpt", "checkpoints/last.ckpt.sha256"}


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    class Breaking(KillBefore):
        def on_train_batch_end(self, run, module, *args):
            if run.global_step == 4:
                module.policy[0].weight.data[0, 0] = torch.nan

    callbacks = [Breaking(-1), Checkpoints("toy", every_n_batches=1, folder=tmp_path)]
    with pytest.raises(UsageError, match=r"policy\.0.weight is not finite, or beyond 1e\+06, after rollout batch 4"):
        trainer(callbacks, tmp_path, logger=False).fit(Module(), Data())
    assert CheckpointFiles().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3
