"""Accelerators: what they are made of, and simulations of what they do with recorded work.

Nothing here needs torch.
"""

from __future__ import annotations

from h2learn.accelerators.config import Accelerator, Parameter, presets

__all__ = ["Accelerator", "Parameter", "presets"]
