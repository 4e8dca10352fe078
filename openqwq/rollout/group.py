"""A batch of problems to groups of rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from openqwq.errors import UserError
from openqwq.types import Completion, Group, Policy, Problem, Prompt, Rollout, SamplingParams

from .agent import ChatEncoder, make_rollout, render_problem


def sample_groups(
    policy: Policy,
    tokenizer: ChatEncoder,
    problems: Sequence[Problem],
    samples_per_prompt: int | Sequence[int],
    params: SamplingParams | Sequence[SamplingParams],
) -> list[Group]:
    """`samples_per_prompt` rollouts of each problem, in the problems' order.

    samples_per_prompt, params: for all problems, or one for each; `n` of params is replaced.
    A problem that cannot be rendered, and a completion that the policy gave up, become rollouts with
    status "error" and the reason; the others are not touched.
    """
    each = [params] * len(problems) if isinstance(params, SamplingParams) else list(params)
    sizes = [samples_per_prompt] * len(problems) if isinstance(samples_per_prompt, int) else list(samples_per_prompt)
    for what, given in (("params", each), ("group sizes", sizes)):
        if len(given) != len(problems):
            raise ValueError(f"{len(given)} {what} for {len(problems)} problems")
    rendered = [_try_render(tokenizer, problem) for problem in problems]
    prompts = {i: prompt for i, prompt in enumerate(rendered) if isinstance(prompt, Prompt)}
    own = [replace(each[i], n=sizes[i]) for i in prompts]
    alike = isinstance(params, SamplingParams) and len(set(sizes)) == 1
    sampled = policy.generate(list(prompts.values()), own[0] if alike and own else own) if prompts else []
    completions: dict[int, list[Completion]] = dict(zip(prompts, sampled, strict=True))
    return [
        Group(problem, _rollouts(problem, rendered[i], completions.get(i, []), sizes[i]))
        for i, problem in enumerate(problems)
    ]


def _try_render(tokenizer: ChatEncoder, problem: Problem) -> Prompt | str:
    """The prompt, or why there is none."""
    try:
        return render_problem(tokenizer, problem)
    except (ValueError, UserError) as error:
        return f"the problem cannot be rendered: {error}"


def _rollouts(
    problem: Problem, prompt: Prompt | str, completions: Sequence[Completion], samples_per_prompt: int
) -> list[Rollout]:
    if isinstance(prompt, Prompt):
        return [make_rollout(problem, prompt, completion) for completion in completions]
    failed = Completion(text="", token_ids=(), logprobs=(), policy_versions=(), finish_reason="abort", error=prompt)
    return [make_rollout(problem, Prompt(token_ids=()), failed) for _ in range(samples_per_prompt)]
