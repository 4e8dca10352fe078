"""Models that use tools over several turns: one loop, its token record, tools, workspaces. Never imports torch."""

from .environment import Environment, Move, Step, play
from .episode import Act, Done, Draw, Episode, Limits, Turn, turn_of
from .record import Segment, TokenRecord
from .tools import Context, Result, Tool, Toolbox, ToolError, ToolFailed, tool_of

__all__ = [
    "Act",
    "Context",
    "Done",
    "Draw",
    "Environment",
    "Episode",
    "Limits",
    "Move",
    "Result",
    "Segment",
    "Step",
    "TokenRecord",
    "Tool",
    "ToolError",
    "ToolFailed",
    "Toolbox",
    "Turn",
    "play",
    "tool_of",
    "turn_of",
]
