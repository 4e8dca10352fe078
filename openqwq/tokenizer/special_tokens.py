"""The 26 tokens that QwQ-32B's tokenizer adds after its learned vocabulary, in the order of their ids."""

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
THINK_START = "<think>"
THINK_END = "</think>"
TOOL_CALL_START = "<tool_call>"
TOOL_CALL_END = "</tool_call>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    START_OF_TURN,
    END_OF_TURN,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Left out of a text by `skip_special_tokens`."""

TAG_TOKENS = (
    TOOL_CALL_START,
    TOOL_CALL_END,
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    THINK_START,
    THINK_END,
)
"""Single tokens too, but part of the text: thinking and tool calls are read from it."""
