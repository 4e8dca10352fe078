"""Groups that stay in flight while the policy's weights change: what a trainer that does not wait samples from.

A turn of sampling ends when enough groups are complete. What is still open then is taken out of the policy with the
tokens that it has, and continues in the next turn under the weights of that time. Between turns the policy
is idle and the open groups are plain data, so a checkpoint can hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from openqwq.errors import UserError
from openqwq.types import Completion, Group, Policy, Problem, Prompt, SamplingParams

from .agent import ChatEncoder, make_rollout, render_problem


class Output(Protocol):
    """A request that is complete, or what it had when it was stopped."""

    @property
    def request_id(self) -> str: ...
    @property
    def outputs(self) -> list[Completion]: ...


class SteppedPolicy(Policy, Protocol):
    """A policy that samples token by token, and takes and gives up requests in between."""

    def add_request(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        so_far: Sequence[Completion] = (),
    ) -> str: ...
    def step(self) -> Sequence[Output]: ...
    def abort(self, request_id: str) -> Output | None: ...


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """A problem with what its samples have so far.

    number: counts groups from the beginning. turn: the one in which it was begun. complete: nothing is left to sample.
    """

    number: int
    turn: int
    problem: Problem
    prompt: Prompt
    params: SamplingParams
    completions: list[Completion] = field(default_factory=list)
    complete: bool = False

    def to_group(self) -> Group:
        return Group(self.problem, [make_rollout(self.problem, self.prompt, c) for c in self.completions])


class GroupStream:
    """Groups in flight, in the order in which they were begun."""

    def __init__(self, policy: SteppedPolicy, tokenizer: ChatEncoder, samples_per_prompt: int):
        self.policy, self.tokenizer, self.samples_per_prompt = policy, tokenizer, samples_per_prompt
        self.groups: list[OpenGroup] = []
        self._begun = 0

    def begin(self, problem: Problem, params: SamplingParams, turn: int, samples_per_prompt: int | None = None) -> None:
        """Put a problem in flight; sampling starts with the next `advance`.

        samples_per_prompt: of this problem; None: as many as of the others.
        One that cannot be rendered, or can never run, is complete at once: its rollouts have failed, with the reason.
        """
        params = replace(params, n=samples_per_prompt or self.samples_per_prompt)
        group = OpenGroup(number=self._begun, turn=turn, problem=problem, prompt=Prompt(()), params=params)
        self._begun += 1
        try:
            group.prompt = render_problem(self.tokenizer, problem)
        except (ValueError, UserError) as error:
            self._fail(group, f"the problem cannot be rendered: {error}")
        self.groups.append(group)

    def advance(self, count: int, *, due: int) -> list[Group]:
        """Sample until `count` groups are complete, and all those that were begun in turn `due` or before.

        Gives the due ones, and of the others the ones begun first, `count` in all if fewer are due. There must be
        `count` groups in flight.
        """
        if count > len(self.groups):
            raise ValueError(f"{count} groups are wanted, but only {len(self.groups)} are in flight")
        waiting = {str(group.number): group for group in self.groups if not group.complete}
        for name, group in list(waiting.items()):
            if not self._enter(name, group):
                del waiting[name]
        try:
            while not self._is_enough(count, due):
                for output in self.policy.step():
                    self._take(waiting.pop(output.request_id), output.outputs, complete=True)
        finally:
            for name, group in waiting.items():
                if (stopped := self.policy.abort(name)) is not None:
                    self._take(group, stopped.outputs, complete=False)
        late = [group for group in self.groups if group.turn <= due]
        rest = [group for group in self.groups if group.turn > due and group.complete]
        chosen = [*late, *rest[: max(count - len(late), 0)]]
        taken = {group.number for group in chosen}
        self.groups = [group for group in self.groups if group.number not in taken]
        return [group.to_group() for group in chosen]

    def state(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {"begun": self._begun, "groups": [asdict(group) for group in self.groups]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self._begun = state["begun"]
        self.groups = [_open_group(row) for row in state["groups"]]

    def _enter(self, name: str, group: OpenGroup) -> bool:
        try:
            self.policy.add_request(group.prompt.token_ids, group.params, name, so_far=group.completions)
        except UserError as error:
            self._fail(group, error.message)
            return False
        return True

    def _is_enough(self, count: int, due: int) -> bool:
        complete = sum(group.complete for group in self.groups)
        return complete >= count and all(group.complete for group in self.groups if group.turn <= due)

    def _take(self, group: OpenGroup, completions: Sequence[Completion], *, complete: bool) -> None:
        """Note what the samples have. Of older tokens' weights a policy in another process knows nothing."""
        older = [completion.weight_checksums for completion in group.completions] or [{}] * len(completions)
        group.completions = [
            replace(completion, weight_checksums={**completion.weight_checksums, **known})
            for completion, known in zip(completions, older, strict=True)
        ]
        group.complete = complete

    def _fail(self, group: OpenGroup, reason: str) -> None:
        failed = Completion(text="", token_ids=(), logprobs=(), policy_versions=(), finish_reason="abort", error=reason)
        self._take(group, [failed] * group.params.n, complete=True)


def _open_group(row: Mapping[str, Any]) -> OpenGroup:
    params: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row["params"].items()}
    return OpenGroup(
        **{
            **row,
            "problem": Problem.from_dict(row["problem"]),
            "prompt": Prompt(tuple(row["prompt"]["token_ids"]), thinking_opened=row["prompt"].get("thinking_opened")),
            "params": SamplingParams(**params),
            "completions": [_completion(c) for c in row["completions"]],
        }
    )


def _completion(row: Mapping[str, Any]) -> Completion:
    return Completion(
        **{
            **row,
            "token_ids": tuple(row["token_ids"]),
            "logprobs": tuple(row["logprobs"]),
            "policy_versions": tuple(row["policy_versions"]),
            "top_logprobs": (),
            "kept_ids": tuple(map(tuple, row["kept_ids"])),
            "inserted": tuple(map(tuple, row["inserted"])),
            "weight_checksums": {int(version): name for version, name in row["weight_checksums"].items()},
        }
    )
