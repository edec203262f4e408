"""CUDA's allocator is asked for its peaks."""

import pytest
import torch

from executor.resident import cuda_peaks, reset_cuda_peaks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peaks_are_those_of_the_device() -> None:
    device = torch.device("cuda", 0)
    reset_cuda_peaks([device])
    before = cuda_peaks([device])["cuda:0"]["allocated_bytes"]
    tensor = torch.zeros(2**20, dtype=torch.uint8, device=device)
    del tensor
    found = cuda_peaks([device, torch.device("cpu"), device])
    assert list(found) == ["cuda:0"]
    assert found["cuda:0"]["allocated_bytes"] == before + 2**20
    assert found["cuda:0"]["reserved_bytes"] >= found["cuda:0"]["allocated_bytes"]
    reset_cuda_peaks([device])
    assert cuda_peaks([device])["cuda:0"]["allocated_bytes"] == before
