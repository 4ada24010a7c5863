"""A recipe of no weights, whose run is over in a moment, and runs of it."""

from rl4llm.studies import Arm, Resolved, Run

SCRIPT = """
import json, pathlib, sys, os
flags = dict(flag[2:].partition("=")[::2] for flag in sys.argv[2:])
seed, gain = int(flags["seed_everything"]), float(flags.get("gain", 0))
folder = pathlib.Path(flags["trainer.default_root_dir"]) / "fake/version_0"
folder.mkdir(parents=True, exist_ok=True)
with (folder / "said").open("a") as file:
    print(" ".join(sys.argv[1:]), os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
if "fault" in flags:
    print("noise", file=sys.stderr)
    sys.exit("error: " + flags["fault"])
(folder / "metrics.csv").write_text(
    f"epoch,step,train/loss,val/accuracy\\n,0,,0.5\\n0,0,{seed},\\n0,1,{seed + 2},\\n1,2,,{0.5 + 0.1 * seed + gain}\\n"
)
if "late" in flags:
    sys.exit("error: " + flags["late"])
(folder / "config.yaml").write_text(f"seed_everything: {seed}\\n")
(folder / "summary.json").write_text(
    json.dumps({"status": "finished", "steps": 2, "minutes": 1.5 + seed, "peak_memory_mib": 100.0 + seed})
)
"""


def fake_runs(folder, arms, seeds=(0,), threads=1):
    """Runs of arms by their flags, first those of the first seed."""
    script = folder / "fake.py"
    script.write_text(SCRIPT)
    resolved = [
        Resolved(Arm(name, str(script), tuple(flags)), script, "fake", f"trainer:\n  devices: 1\nname: {name}\n")
        for name, flags in arms.items()
    ]
    return [Run(one, seed, threads, folder / "out") for seed in seeds for one in resolved]
