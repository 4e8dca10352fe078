import pytest
import torch

from openqwq.train.algorithm.losses import sample_weights
from openqwq.train.optim.activations import recomputed_activations
from openqwq.train.optim.update import accumulate, next_token_objective
from openqwq.train.packing import document_sample, pack


def gradients_and_kept_bytes(model, what):
    """The gradient of a loss, and the bytes of activations that its forward pass kept for the backward pass."""
    samples = [document_sample([i % 16 for i in range(40)]), document_sample([i % 7 for i in range(30)])]
    weights = sample_weights([s.trained_tokens for s in samples], aggregation="token")
    batches = pack(samples, weights, tokens_per_microbatch=1000)
    kept = {}
    own = {p.data_ptr() for p in model.parameters()}

    def pack_hook(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with (
        recomputed_activations(model, what),
        torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda t: t),
    ):
        accumulate(model, batches, next_token_objective)
    return {name: p.grad.clone() for name, p in model.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize("what", ["mlp", "layer"])
def test_recomputed_activations_give_the_same_gradient(world, what):
    model = world.model()
    expected, _ = gradients_and_kept_bytes(model, "none")
    found, _ = gradients_and_kept_bytes(model, what)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_more_is_recomputed_the_less_is_kept(world):
    model = world.model()
    kept = [gradients_and_kept_bytes(model, what)[1] for what in ("none", "mlp", "layer")]
    assert kept[0] > 1.3 * kept[1] > 1.3 * 1.3 * kept[2]


def test_layers_are_as_before_when_the_block_ends(world):
    model = world.model()
    with pytest.raises(RuntimeError), recomputed_activations(model, "layer"):
        assert "forward" in vars(model.model.layers[0])
        raise RuntimeError
    assert all("forward" not in vars(module) for module in model.modules())
