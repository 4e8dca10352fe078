"""Text and tokens: Qwen's tokenizer, the chat template, and reading completions back. Never imports torch."""

from .chat import join_texts, normalize_messages, render_chat
from .ends import folder_end_ids, template_end
from .parse import ParsedCompletion, answer_start, opens_thinking, parse_completion, parse_tool_calls
from .parse_stream import CallError, ThinkingStream, ToolCallStream
from .put_in import Rendered
from .special_tokens import SPECIAL_TOKENS, TAG_TOKENS
from .stream_decoder import StreamDecoder
from .styles import PROMPT_STYLES, with_style
from .templates import load_default_template, template_variables
from .tokenizer import Tokenizer, with_qwq_template
from .training import render_training_turn, train_tokenizer

__all__ = [
    "PROMPT_STYLES",
    "SPECIAL_TOKENS",
    "TAG_TOKENS",
    "CallError",
    "ParsedCompletion",
    "Rendered",
    "StreamDecoder",
    "ThinkingStream",
    "Tokenizer",
    "ToolCallStream",
    "answer_start",
    "folder_end_ids",
    "join_texts",
    "load_default_template",
    "normalize_messages",
    "opens_thinking",
    "parse_completion",
    "parse_tool_calls",
    "render_chat",
    "render_training_turn",
    "template_end",
    "template_variables",
    "train_tokenizer",
    "with_qwq_template",
    "with_style",
]
