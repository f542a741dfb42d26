"""A text that grows token by token, handed on in pieces that no later token changes."""

from __future__ import annotations

from heliostat.features import Vocabulary

_BROKEN = "\ufffd"
"""What a vocabulary of bytes writes for a character of which the rest is still to come."""


class Pieces:
    """Tokens in, text out: joined, the pieces are the vocabulary's text of all the tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.ids: list[int] = []
        self._vocabulary = vocabulary
        self._said = ""

    def add(self, id: int) -> str:
        """What one more token adds for certain: empty as long as it ends amid a character."""
        self.ids.append(id)
        return self._more(self._vocabulary.text(self.ids).rstrip(_BROKEN))

    def rest(self) -> str:
        """What was held back and stands in the text after all."""
        return self._more(self._vocabulary.text(self.ids))

    def _more(self, text: str) -> str:
        if not text.startswith(self._said):  # a vocabulary that takes back what stood before says it when it settles
            return ""
        more, self._said = text[len(self._said) :], text
        return more
