"""Work on a card, recorded once and replayed.

From Python a kernel takes longer to start than a small network's kernel takes to run. A CUDA graph starts all the kernels
of a rollout or of a minibatch at once (PyTorch, "CUDA semantics", section CUDA graphs). Elsewhere work is just done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Work = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recording:
    """A graph, where in memory it reads its inputs and where it leaves its results."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    results: dict[str, Tensor]

    def play(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, place in self.inputs.items():
            place.copy_(inputs[name])
        self.graph.replay()
        return {name: result.clone() for name, result in self.results.items()}


class Replay:
    """Does work by name; on a card the first time as it comes, from the second time on as a recording.

    A recording repeats what was launched. So work of one name has to launch the same for the same shapes, look at no
    number, draw from `generators` alone, and leave what it changes besides its results where it found it in memory.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators
        self._stream = _stream(device) if device.type == "cuda" else None
        self._seen: dict[tuple[object, ...], _Recording | None] = {}

    def __call__(self, name: str, work: Work, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._stream is None:
            return work(inputs)
        key = (name, *(tuple(x.shape) for x in inputs.values()))
        if key not in self._seen:  # libraries and the optimiser set themselves up, which no recording could repeat
            self._seen[key] = None
            return self._aside(self._stream, work, inputs)
        recording = self._seen[key] or self._record(self._stream, work, inputs)
        self._seen[key] = recording
        return recording.play(inputs)

    @staticmethod
    def _aside(stream: torch.cuda.Stream, work: Work, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the stream that will record: autograd holds on to the stream on which it first met a parameter."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = work(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return results

    def _record(self, stream: torch.cuda.Stream, work: Work, inputs: Mapping[str, Tensor]) -> _Recording:
        graph, places = torch.cuda.CUDAGraph(), {n: x.clone() for n, x in inputs.items()}
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=stream):
            results = work(places)
        return _Recording(graph=graph, inputs=places, results=results)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps 70 MB for every stream that it ever saw."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


DIRECT = Replay(torch.device("cpu"), ())
"""Just does the work, wherever its tensors are."""
