"""constant: as many levels in every step, Hugging Face's schedule "constant".

The default of transformers since 4.45 is 20 tokens, together with the confidence rule (`confidence`
here, which has this cap, too). Where `fixed` counts nodes, this counts levels. It learns nothing.

Guarantee: exact. The length never looks at the text. It promises no speed: a length that does not
pay is drafted on.
Source: transformers, `num_assistant_tokens_schedule`; Leviathan et al. 2211.17192 (their gamma).
"""

from __future__ import annotations

from foretoken.policy.length import LengthPolicy


class Constant(LengthPolicy):
    """Never adapts."""

    name = "constant"
    summary = "as many levels in every step"
    source = "transformers (schedule 'constant'); Leviathan et al. 2211.17192"
