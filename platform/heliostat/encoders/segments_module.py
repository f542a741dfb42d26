"""What computes in the encoder of texts that belong together."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from heliostat.batch import Batch
from heliostat.encoders.segments import SEGMENTS
from heliostat.encoders.text_module import TextModule
from heliostat.features import SegmentFeatures, TokenFeatures


class SegmentsModule(TextModule):
    """Token ids of a whole batch -> one vector a token, one an example, and one for each text of an example."""

    def forward(self, batch: Batch) -> TokenFeatures:
        """Features with `segments`: the mean over the tokens of each text, in the order of the batch."""
        features = super().forward(batch)
        segments = batch.ragged(SEGMENTS)
        assert isinstance(features, SegmentFeatures)
        return replace(features, segments=_means(features, segments.values, segments.offsets), counts=segments.lengths)


def _means(features: SegmentFeatures, lengths: Tensor, offsets: Tensor) -> Tensor:
    """[texts, dim]. `lengths`: tokens of each text; `offsets`: where the texts of each example begin."""
    states, starts = features.states, features.tokens.offsets
    num_texts = offsets.diff().long()
    owners = torch.repeat_interleave(torch.arange(len(num_texts), device=states.device), num_texts)
    # The last tokens of an example are those of its texts; what stands before them opens the sequence.
    behind = lengths.cumsum(0)
    totals = behind.new_zeros(len(num_texts)).index_add_(0, owners, lengths)
    ends = starts[1:].long()[owners] - totals.cumsum(0)[owners] + behind
    places = torch.repeat_interleave(ends - behind, lengths) + torch.arange(int(lengths.sum()), device=states.device)
    texts = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = states.new_zeros(len(lengths), states.shape[1]).index_add_(0, texts, states.index_select(0, places))
    return sums / lengths.unsqueeze(1)
