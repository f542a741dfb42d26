"""Search for the most probable text: greedy and beam search over any decoder that writes token after token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from heliostat.features import Writing


class Hypothesis(NamedTuple):
    """A text that was found."""

    ids: list[int]
    """Its tokens, without the end."""
    score: float
    """The log probability of its tokens and its end, divided by their count to the power of the length penalty."""


class Bounds(NamedTuple):
    """What a text is made of."""

    start_id: int
    end_id: int
    forbidden: tuple[int, ...]
    """Tokens that are never written."""
    limits: tuple[int, ...]
    """The most tokens of each text, 1 at least."""


@torch.no_grad()
def greedy(writing: Writing, bounds: Bounds, device: torch.device) -> list[list[int]]:
    """The most probable token at each step, until the end: new ids of each text."""
    found: list[list[int]] = [[] for _ in bounds.limits]
    going = list(range(len(found)))
    last = torch.full((len(going),), bounds.start_id, dtype=torch.long, device=device)
    while going:
        best = _log_probabilities(writing, last, bounds, is_first=not found[going[0]]).argmax(-1)
        ids = best.tolist()
        for place, id in zip(going, ids, strict=True):
            found[place] += [id] if id != bounds.end_id else []
        kept = [
            at
            for at, (place, id) in enumerate(zip(going, ids, strict=True))
            if id != bounds.end_id and len(found[place]) < bounds.limits[place]
        ]
        if len(kept) < len(going):
            rows = torch.tensor(kept, dtype=torch.long, device=device)
            writing.keep(rows)
            best = best.index_select(0, rows)
        going, last = [going[at] for at in kept], best
    return found


class Step(NamedTuple):
    """One more token of a text."""

    id: int
    gain: float
    """Its log probability."""


@torch.no_grad()
def greedy_steps(writing: Writing, bounds: Bounds, device: torch.device) -> Iterator[Step]:
    """The steps of `beam_search` with one beam over one text, as they are taken; the end is one of them."""
    last = torch.full((1,), bounds.start_id, dtype=torch.long, device=device)
    for count in range(bounds.limits[0]):
        gain, last = _log_probabilities(writing, last, bounds, is_first=count == 0).max(-1)
        step = Step(int(last), float(gain))
        yield step
        if step.id == bounds.end_id:
            return


class _Beam(NamedTuple):
    ids: list[int]
    total: float


@torch.no_grad()
def beam_search(
    writing: Writing, bounds: Bounds, device: torch.device, *, beams: int, length_penalty: float
) -> list[list[Hypothesis]]:
    """Up to `beams` texts a source, best first (Graves 2012; the penalty of Wu et al. 2016 without its constant).

    A text's search ends when `beams` texts are found and the best one that is still being written, ended as it is,
    would score no better than the worst of them. With a length penalty above 0 that is a heuristic, the usual one: a
    longer text might still have scored better, and looking on until all limits takes many times as long.
    """
    live = {source: [_Beam([], 0.0)] for source in range(len(bounds.limits))}
    found: dict[int, list[Hypothesis]] = {source: [] for source in live}
    step = 0
    last = torch.full((len(live),), bounds.start_id, dtype=torch.long, device=device)
    while live:
        likelihood = _log_probabilities(writing, last, bounds, is_first=step == 0)
        best, tokens = (each.tolist() for each in likelihood.topk(min(2 * beams, likelihood.shape[1])))
        step += 1
        rows: list[int] = []
        first, following = 0, {}
        for source, texts in live.items():
            ways = sorted(
                ((texts[at].total + gain, at, token) for at in range(len(texts))
                 for gain, token in zip(best[first + at], tokens[first + at], strict=True)),
                key=lambda way: -way[0],
            )[: 2 * beams]  # fmt: skip
            going = _grown(ways, texts, found[source], bounds, beams, step**length_penalty)
            if step < bounds.limits[source] and not _is_over(going, found[source], beams, step**length_penalty):
                following[source] = [beam for _, beam in going]
                rows += [first + at for at, _ in going]
            elif len(found[source]) < beams:  # what is not ended is cut, so that there is always an answer
                cut = (Hypothesis(beam.ids, beam.total / step**length_penalty) for _, beam in going)
                found[source] += list(cut)[: beams - len(found[source])]
            first += len(texts)
        live = following
        if live:
            writing.keep(torch.tensor(rows, dtype=torch.long, device=device))
            last = torch.tensor([beam.ids[-1] for texts in live.values() for beam in texts], device=device)
    return [sorted(texts, key=lambda text: -text.score)[:beams] for texts in found.values()]


def _grown(
    ways: list[tuple[float, int, int]],
    texts: list[_Beam],
    found: list[Hypothesis],
    bounds: Bounds,
    beams: int,
    length: float,
) -> list[tuple[int, _Beam]]:
    """The texts that go on, each with the place of the one it grew from; those that end here join `found`."""
    going: list[tuple[int, _Beam]] = []
    for rank, (total, at, token) in enumerate(ways):
        if token == bounds.end_id:
            if rank < beams:
                found.append(Hypothesis(texts[at].ids, total / length))
        elif len(going) < beams:
            going.append((at, _Beam([*texts[at].ids, token], total)))
    return going


def _is_over(going: list[tuple[int, _Beam]], found: list[Hypothesis], beams: int, length: float) -> bool:
    if len(found) < beams:
        return False
    worst = sorted(found, key=lambda text: -text.score)[beams - 1].score
    return going[0][1].total / length <= worst


def _log_probabilities(writing: Writing, last: Tensor, bounds: Bounds, *, is_first: bool) -> Tensor:
    """[texts, vocabulary]; the end is none of the first tokens, so that no answer is empty."""
    likelihood = writing.step(last).float().log_softmax(-1)
    never = [*bounds.forbidden, *([bounds.end_id] if is_first else [])]
    return likelihood.index_fill(1, torch.tensor(never, dtype=torch.long, device=last.device), float("-inf"))
