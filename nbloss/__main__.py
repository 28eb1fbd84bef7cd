"""The command line: this machine, how fast it is, kernels compiled ahead, and their sources."""

import argparse
import sys

from nbloss._version import __version__
from nbloss.commands import bench, info, source, warmup

NEEDS_RICH = "python -m nbloss prints with rich: pip install 'nbloss[cli]'"
DTYPES = ["float16", "bfloat16", "float32", "float64"]
INTERRUPTED = 130  # what a shell makes of Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run a command; give the status for the shell."""
    parser = argparse.ArgumentParser(
        prog="nbloss",
        description="PyTorch's losses, compiled by Numba: what they do on this machine.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("info", info.run, "versions, threads, processor, cache, CUDA"),
        ("bench", bench.run, "time each loss beside torch's own, in less than a minute"),
        ("warmup", warmup.run, "compile the kernels of all losses ahead, into the cache on disk"),
        ("source", source.run, "print the source of the kernel that computes a loss"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name == "source":
            command.add_argument("name", help="the loss, such as huber_loss")
            command.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
            command.add_argument("--dtype", default="float32", choices=DTYPES)
            command.add_argument("--reduction", default="mean", choices=["mean", "sum", "none"])
        if name in ("info", "bench"):
            command.add_argument(
                "--json", action="store_true", help="print JSON instead of a table"
            )
        if name == "warmup":
            command.add_argument(
                "--dtypes",
                nargs="+",
                default=["float32"],
                choices=DTYPES,
                help="number types to compile for (%(default)s)",
            )
    options = parser.parse_args(arguments)
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        print(NEEDS_RICH, file=sys.stderr)
        return 1
    try:
        return options.run(Console(), options)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
