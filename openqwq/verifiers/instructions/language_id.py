"""The language of a text, as IFEval's checker asks for it: `langdetect`, which draws at random, with a fixed seed."""

from __future__ import annotations

from openqwq.errors import UserError


def detect(text: str) -> str | None:
    """The ISO 639-1 code, e.g. "en" or "zh-cn"; None for a text without letters that tell."""
    try:
        from langdetect import DetectorFactory, LangDetectException
        from langdetect import detect as detect_with_drawn_prior
    except ImportError as error:
        raise UserError("the package `langdetect` is missing", hint="pip install langdetect") from error
    DetectorFactory.seed = 0
    try:
        return detect_with_drawn_prior(text)
    except LangDetectException:
        return None
