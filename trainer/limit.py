"""The limit of a piece of work: its own matrix products and nothing else.

While the work runs, every product it asks of the machine is noted with the shapes, strides and type of its factors. The
limit is how fast the same products run one after another on factors of their own, measured in turn with the work: a
machine's speed changes from second to second, and products of another shape run at another speed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
FACTORS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
"""The products there are, and which argument is the first factor; the second is the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The products of one run of the work, in order; flop counts a multiplication and an addition as two."""

    calls: tuple[tuple[Any, tuple[Tensor, ...]], ...]
    flop: int

    def run(self) -> dict[str, Tensor]:
        """Their results are nobody's."""
        for product, arguments in self.calls:
            product(*arguments)
        return {}


def products_of(work: Callable[[], object]) -> Products:
    """Run `work` once and note its products."""
    with _Noting() as noted:
        work()
    return Products(calls=tuple(noted.calls), flop=noted.flop)


class _Noting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Tensor, ...]]] = []
        self.flop = 0
        self._like: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORS:
            a, b = args[FACTORS[func] : FACTORS[func] + 2]
            self.flop += 2 * a.numel() * b.shape[-1]
            self.calls.append((func, tuple(self._another(t) for t in args if isinstance(t, Tensor))))
        else:
            with self:  # without gradients torch hands over whole layers
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        return func(*args, **(kwargs or {}))

    def _another(self, factor: Tensor) -> Tensor:
        """Numbers of our own in the same shape and order of memory, one array for every such factor."""
        key = (factor.shape, factor.stride(), factor.dtype, factor.device)
        if key not in self._like:
            extent = 1 + sum(max(n - 1, 0) * s for n, s in zip(factor.shape, factor.stride(), strict=True))
            numbers = torch.randn(extent, device=factor.device).to(factor.dtype)
            self._like[key] = numbers.as_strided(factor.shape, factor.stride())
        return self._like[key]
