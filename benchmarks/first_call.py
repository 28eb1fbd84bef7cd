"""What the first call of a process costs, forward and backward: with compiling, or from a cache.

    python benchmarks/first_call.py nbloss huber_loss      # prints the seconds

Where the caches lie is for the environment to say: `NBLOSS_CACHE_DIR`, `TORCHINDUCTOR_CACHE_DIR`.
"""

import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import torch._dynamo  # loading what compiles is no part of a compilation

    from contenders import function_of, run_of
    from workloads import TYPICAL, Workload

    contender, loss = sys.argv[1:]
    workload = Workload(loss, TYPICAL[loss], 1000, 100)
    run = run_of(contender, workload, function_of(contender, workload))
    torch.ones(1, requires_grad=True).sum().backward()  # nor is starting autograd
    start = time.perf_counter()
    run(1)
    print(time.perf_counter() - start)
