"""What a translation must not lose: tags, variables and marks that a program reads."""

from __future__ import annotations

import re
from collections import Counter

_TAGS = (
    "a|b|br|code|div|em|emph|font|h[1-6]|hr|i|img|item|li|link|ol|p|span|strong|sub|sup|table|td|th|tr|tt|u|ul|variable"
)

_MARK = re.compile(
    rf"""
    </?(?:{_TAGS})/?>                    # <b>, </a>, <br/>
    | <[A-Za-z][\w.-]*\s[^<>]*=[^<>]*>   # <item type="x">
    | %[A-Z][A-Z_]{{2,}}                 # %PRODUCTNAME
    | %\(\w+\)[sd]                       # %(name)s
    | %\d+\$?[sd]? | %[sd](?![A-Za-z])   # %1, %1$s, %s
    | \$\([A-Za-z_]\w*\) | \$\{{\w+\}}   # $(ARG1), ${{name}}
    | \{{\d*\}}                         # {{}}, {{0}}
    | https?://[^\s<>()]+
    """,
    re.VERBOSE,
)


def marks(text: str) -> list[str]:
    """The tags, variables and addresses in a text, in order."""
    return [found.group().rstrip(".,;:") for found in _MARK.finditer(text)]


def lost(source: str, answer: str) -> list[str]:
    """The marks of `source` that `answer` lacks, and those that it has too many of or made up."""
    wanted, found = Counter(marks(source)), Counter(marks(answer))
    return sorted([*(wanted - found).elements(), *(found - wanted).elements()])
