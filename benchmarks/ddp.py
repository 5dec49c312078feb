"""Training with several ranks: what DistributedDataParallel costs, and where more GPUs stop paying.

    python -m benchmarks.ddp [--quick] [--rounds 5]

On this machine's CPUs: one rank against none, and two ranks of one thread against one of two. Each
is timed in processes of its own, in turn. Then a table on paper: the seconds of a step on N GPUs,
from those of one GPU (`--step`), the bytes of the gradients and the bandwidth (`--bandwidth`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import torch
import torch.distributed as dist

from benchmarks import measure, pair
from benchmarks.train_step import BATCH, CONFIG, batch_of
from sat.config.training import TrainConfig
from sat.data.dataloader import StepSize
from sat.distributed import process_group
from sat.models.decoder import DecoderWithAttention
from sat.training.gradient_sum import GradientSum
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.optim import optimizer_step

HIDDEN = 0.5
"""share of the gradients that DistributedDataParallel sends while backward still computes"""


class Case(NamedTuple):
    """One way to run a step of the whole batch."""

    name: str
    ranks: int  # 0: a process that torchrun did not start
    threads: int
    sends: bool = True  # the gradients; else they stay apart: the step without communication


CASES = (
    Case("no torchrun, 1 thread", 0, 1),
    Case("1 rank, 1 thread", 1, 1),
    Case("1 rank, 2 threads", 1, 2),
    Case("2 ranks, 1 thread each", 2, 1),
    Case("2 ranks, without sending gradients", 2, 1, sends=False),
)


def seconds_a_step(case: Case, quick: bool, steps: int) -> float:
    """Median seconds of a step, in the processes of the case."""
    with process_group(600):
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        sizes, size = pair.sizes_for(quick), BATCH // max(1, case.ranks)
        decoder = pair.decoder(DecoderWithAttention, sizes, pair.OURS)
        batch = batch_of(size, sizes, torch.device("cpu"))
        words = int((batch.lengths - 1).sum()) * max(1, case.ranks)
        batch = batch._replace(share_of=StepSize(words, BATCH))
        config = TrainConfig(**CONFIG)  # type: ignore[arg-type]
        objective = CrossEntropyObjective(pair.captioner(decoder), config, config.stage1)
        gradients = GradientSum(decoder.parameters()) if case.sends else None
        optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-4, fused=True)
        times = []
        for _ in range(steps + 2):
            began = time.perf_counter()
            with objective.step(batch, 0) as loss:
                loss = gradients.while_backward(loss, batch) if gradients else loss
                optimizer_step(optimizer, [batch], loss, config)
            times.append(time.perf_counter() - began)
        return statistics.median(times[2:])


def run(index: int, quick: bool, steps: int) -> float:
    """`seconds_a_step` of a case, as its slowest process measured it."""
    case, processes = CASES[index], []
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(max(1, case.ranks)):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": case.ranks}
        place |= {"MASTER_PORT": store.port, "MASTER_ADDR": "127.0.0.1"}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        own = {name: str(value) for name, value in place.items()} if case.ranks else {}
        environment = os.environ | own | {"OMP_NUM_THREADS": str(case.threads)}
        command = [sys.executable, "-m", "benchmarks.ddp", "--case", str(index)]
        command += ["--steps", str(steps), *["--quick"] * quick]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    return max(float(process.communicate()[0]) for process in processes)


def on_paper(gpus: int, step: float, gradients: float, bandwidth: float) -> float:
    """Seconds of a step when each of N GPUs takes as many captions as one did alone.

    A ring sends 2 (N - 1) / N of the bytes of the gradients over each link; `HIDDEN` of it behind
    the computation.
    """
    return step + (1 - HIDDEN) * 2 * (gpus - 1) / gpus * gradients / bandwidth


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step", type=float, default=0.03, help="seconds of a step on one GPU")
    parser.add_argument("--bandwidth", type=float, default=10e9, help="bytes a second of a link")
    parser.add_argument("--case", type=int, help="of one process of a case: prints its seconds")
    flags = parser.parse_args()
    if flags.case is not None:
        print(seconds_a_step(CASES[flags.case], flags.quick, flags.steps))
        return
    rounds, steps = (1, 1) if flags.quick else (flags.rounds, flags.steps)
    found = [[run(i, flags.quick, steps) for i in range(len(CASES))] for _ in range(rounds)]
    timings = [measure.timing(times) for times in zip(*found)]
    print(f"## Several ranks, {BATCH} captions a step over all of them\n")
    print("| processes | seconds a step | ratio |\n| --- | --- | --- |")
    for case, timing in zip(CASES, timings):
        print(f"| {case.name} | {timing} | {timing.median / timings[0].median:.3f} |")
    share = 1 - timings[-1].median / timings[-2].median
    print(f"\nShare of sending gradients in a step of two ranks: {share:.1%}\n")
    decoder = pair.decoder(DecoderWithAttention, pair.sizes_for(flags.quick), pair.OURS)
    gradients = 4 * sum(weight.numel() for weight in decoder.parameters())
    print(
        f"On paper: {gradients / 1e6:.0f} MB of gradients, {flags.bandwidth / 1e9:g} GB/s, a step"
    )
    print(f"of {flags.step:g} s on one GPU, {HIDDEN:.0%} of the sending hidden\n")
    print("| GPUs | seconds a step | times one GPU | efficiency |\n| --- | --- | --- | --- |")
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        seconds = on_paper(gpus, flags.step, gradients, flags.bandwidth)
        gain = gpus * flags.step / seconds
        print(f"| {gpus} | {seconds:.4f} | {gain:.1f} | {gain / gpus:.0%} |")


if __name__ == "__main__":
    main()
