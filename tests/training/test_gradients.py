import torch
from torch import nn

from cp_ray.training.gradients import Gradients


def test_gradients_lie_where_they_lay_in_the_step_before() -> None:
    adapters = [[nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))] for _ in range(2)]
    gradients = Gradients(adapters)
    places = list[list[int]]()
    for step in range(3):
        for parameter in (p for own in adapters for p in own):
            parameter.grad = None  # as an engine does after its step
        gradients.clear([1])
        (2.0 * adapters[1][0].sum() + (step * adapters[1][1]).sum()).backward()  # type: ignore[no-untyped-call]
        adapters[1][0].sum().backward()  # type: ignore[no-untyped-call]
        found = [p.grad for p in adapters[1]]
        assert [None if g is None else g.tolist() for g in found] == [[[3.0] * 3] * 2, [float(step)] * 4]
        assert [p.grad for p in adapters[0]] == [None, None], "who takes no part has none"
        places.append([g.data_ptr() for g in found if g is not None])
    assert places[0] == places[1] == places[2]
    assert places[0][1] - places[0][0] == 6 * 4, "in one piece"
