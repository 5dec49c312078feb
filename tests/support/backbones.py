"""Backbones of torchvision with random weights, and a stand-in for its downloads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum


def untrained(name: str) -> nn.Module:
    """A classifier of torchvision whose batch norms all have statistics of their own."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def publish(monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]) -> list[WeightsEnum]:
    """Let torchvision find `state` where it would download; the list fills with what was asked."""
    asked = []

    def get_state_dict(self: WeightsEnum, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        asked.append(self)
        return state

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    return asked
