"""Segmenters: which step of its response a token belongs to."""

from rl4llm.segment_ids import consecutive_segments, segment_starts
from rl4llm.segments.base import Segmenter
from rl4llm.segments.fixed import FixedTokens, fixed_token_segments
from rl4llm.segments.newline import Newline, newline_segments
from rl4llm.segments.sentence import Sentence, sentence_segments

__all__ = [
    # The family
    "Segmenter",
    # Segmenters
    "newline_segments",
    "sentence_segments",
    "fixed_token_segments",
    "Newline",
    "Sentence",
    "FixedTokens",
    # Building blocks
    "segment_starts",
    "consecutive_segments",
]
