"""Large pages under large tensors: nothing in them changes, and Linux has given some where it gives any."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openqwq.kernels.cpu import large_pages as pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def large_page_bytes(tensor):
    """Of the mapping that holds the tensor, by /proc/self/smaps."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= tensor.data_ptr() + pages.LARGE_PAGE < end
        elif inside and first == "AnonHugePages:":
            return 1024 * int(line.split()[1])
    return 0


@pytest.mark.skipif(not SETTING.exists() or "[never]" in SETTING.read_text(), reason="no large pages here")
@pytest.mark.parametrize("filled", [True, False])
def test_a_large_tensor_gets_large_pages_and_keeps_what_it_holds(filled):
    numbers = torch.arange(2**23, dtype=torch.float32)
    tensor = numbers.clone() if filled else torch.from_numpy(np.zeros(2**23, np.float32))
    pages.use_large_pages(tensor, filled=filled)
    tensor.copy_(numbers) if not filled else None
    assert torch.equal(tensor, numbers)
    assert large_page_bytes(tensor) >= tensor.nbytes // 2  # all but what a busy machine has none for


def test_only_whole_pages_of_large_tensors_are_spoken_of(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "_madvise", lambda: lambda *request: asked.append(request))
    memory = torch.zeros(4 * pages.LARGE_PAGE, dtype=torch.uint8)
    pages.use_large_pages(memory[: pages.WORTHWHILE - 1], filled=True)
    assert asked == []
    own = memory[5 : 5 + 3 * pages.LARGE_PAGE]
    pages.use_large_pages(own, filled=True)
    assert [advice for *_, advice in asked] == [pages.MADV_HUGEPAGE, pages.MADV_COLLAPSE]
    for begin, size, _ in asked:
        assert begin % pages.LARGE_PAGE == 0 and size in (2 * pages.LARGE_PAGE, 3 * pages.LARGE_PAGE)
        assert own.data_ptr() <= begin and begin + size <= own.data_ptr() + own.nbytes
    asked.clear()
    pages.use_large_pages(own, filled=False)
    assert [advice for *_, advice in asked] == [pages.MADV_HUGEPAGE]
