"""A model whose `train` and `zero_grad` do less, and do the same."""

import torch
from torch import nn

from hydralora.training.step.module_walks import fewer_walks


def test_modes_and_gradients_are_those_of_a_full_walk() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model[0].bias.requires_grad_(False)
    with fewer_walks(model, [model[0].weight], lambda: False):  # type: ignore[list-item]
        model.eval()
        assert not model[1].training
        model.train()
        assert model[1].training
        model(torch.ones(1, 2)).sum().backward()
        model.zero_grad()
        assert model[0].weight.grad is None
    assert "train" not in model.__dict__
    assert "zero_grad" not in model.__dict__


def test_gradients_stay_in_place_if_they_must() -> None:
    model = nn.Linear(2, 2)
    with fewer_walks(model, list(model.parameters()), lambda: True):
        model.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        assert model.weight.grad is not None
        place = model.weight.grad.data_ptr()
        model.zero_grad()
        assert model.weight.grad.data_ptr() == place
        assert not model.weight.grad.any()


def test_a_model_in_training_mode_is_not_walked() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    with fewer_walks(model, [], lambda: False):
        model[0].training = False
        assert model.train() is model
        assert not model[0].training
