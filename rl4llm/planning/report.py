"""The plan of memory as text: a table of models, a table of phases, and whether it fits."""

from collections.abc import Sequence

from rl4llm.planning.bytes import Plan


def report(plan: Plan, recipe: str) -> str:
    """Return the plan as two tables and one line that says whether it fits.

    Args:
        plan: Memory of each device.
        recipe: Name of the recipe.
    """
    lines = [f"{recipe}: memory of {_devices(plan)} in MiB, if every prompt and response is as long as it may be\n"]
    lines += _table(["model", "parameters", "trained", "weights", "gradients", "optimizer"], _models(plan))
    lines.append("")
    lines += _table(
        ["phase", "stays", "gathered", "gradients", "activations", "logits", "KV cache", "sum"], _rows(plan)
    )
    lines += ["", *(f"note: {note}." for note in plan.notes), _verdict(plan)]
    return "\n".join(lines)


def mebibytes(size: float) -> str:
    """Return a size in MiB, with one decimal where it is small.

    Example:
        >>> mebibytes(2**30), mebibytes(3 * 2**19)
        ('1,024', '1.5')
    """
    return f"{size / 2**20:,.0f}" if size >= 100 * 2**20 else f"{size / 2**20:.1f}"


def _devices(plan: Plan) -> str:
    setting = plan.setting
    many = "the device" if setting.world_size == 1 else f"each of {setting.world_size} devices"
    return f"{many} ({'fsdp2, ' if setting.sharded else ''}{setting.precision})"


def _models(plan: Plan) -> list[list[str]]:
    rows = [
        [one.name, f"{one.count:,}", f"{one.trained:,}", *map(mebibytes, (one.parameters, one.gradients, one.states))]
        for one in plan.models
    ]
    return [*rows, ["rollout batch", "", "", mebibytes(plan.batch), "", ""]]


def _rows(plan: Plan) -> list[list[str]]:
    rows = []
    for phase in plan.phases:
        parts = (phase.weights, phase.gradients, phase.activations, phase.logits, phase.cache)
        sizes = (plan.resident, *parts, plan.resident + phase.total)
        rows.append([phase.name, *map(mebibytes, sizes)])
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in (head, *rows)
    ]


def _verdict(plan: Plan) -> str:
    setting, libraries = plan.setting, plan.setting.libraries
    beside = f" and {mebibytes(libraries)} MiB of Python and libraries" if libraries else ""
    said = f"peak: {plan.peak.name}, {mebibytes(plan.peak_bytes)} MiB{beside}"
    if setting.memory is None:
        return f"{said}; state the memory of a device with --dry_run_memory=80GiB to see whether it fits."
    return f"{said} of {mebibytes(setting.memory)} MiB: it {'fits' if plan.fits else 'does not fit'}."
