"""Memory that a trial could not get, and memory that does not come back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from daemon.child.search import search_space
from trainer.space import Hyperparameters

WARM_TRIALS = 2  # until then caches fill up: growth is no leak
SEEN_TRIALS = 3  # in all of which the growth must show
_PAGE_BYTES = 4096
# torch's allocator for the processor raises a bare RuntimeError; these are its words since 1.0
_CPU_WORDS = ("can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory was refused, on the processor or on a card."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)


def smaller(chosen: Hyperparameters) -> Hyperparameters | None:
    """The same with the next smaller minibatch of the search space; None when there is none."""
    (choices,) = (p.choices for p in search_space(chosen.policy) if p.name == "minibatch")
    below = [c for c in choices if c < chosen.minibatch]
    return replace(chosen, minibatch=max(below)) if below else None


def grown_bytes(after_trial: Sequence[int]) -> int:
    """How much more a process holds than when it was warm: what none of the last trials gave back.

    >>> grown_bytes([900, 1000, 1500, 1600, 1700]), grown_bytes([900, 1000, 9000, 1000, 9000]), grown_bytes([1, 9])
    (500, 0, 0)
    """
    if len(after_trial) < WARM_TRIALS + SEEN_TRIALS:
        return 0
    return max(0, min(after_trial[-SEEN_TRIALS:]) - max(after_trial[:WARM_TRIALS]))


def resident_bytes() -> int:
    """What this process holds in main memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def card_bytes() -> tuple[int, int]:
    """(held now, held at most) on the card; zeros for a process that has not used one."""
    if not torch.cuda.is_available():  # the two below are zero until this process allocates there
        return 0, 0
    return int(torch.cuda.memory_reserved()), int(torch.cuda.max_memory_reserved())
