"""Spiking neurons: LIF, IF, PLIF.

Forward, backward and all options are defined in cpp/include/h2learn/soma.hpp; the defaults are
the neuron that the authors of H2Learn train (threshold and decay 0.25, hard reset kept in the
gradient, rectangular surrogate).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from h2learn import checks, ops, recording
from h2learn.autograd import soma
from h2learn.spikes import SpikeTensor
from h2learn.surrogate import Rect, Surrogate

__all__ = ["IF", "LIF", "PLIF", "ActivityWarning", "reset", "set_step_mode"]

SATURATED = 0.95
"""Firing rate above which a layer is said to be saturated."""


class ActivityWarning(UserWarning):
    """A layer of neurons never fires, or fires nearly always: it passes on no information."""


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons over T timesteps.

        u_t = decay * h_(t-1) + x_t,   s_t = u_t > threshold,   h_t = u_t reset by s_t

    Args:
        decay: factor of the membrane from one step to the next, 0 to 1.
        threshold: membrane potential above which a neuron fires, positive.
        surrogate: derivative of the spike in the backward pass (`h2learn.surrogate`).
        reset: "hard" (to zero) or "soft" (minus the threshold).
        detach_reset: let no gradient through the spike in the reset. Saves memory: with `Rect`,
            two bits a neuron and step are all that is kept.
        inclusive: fire at u >= threshold (SpikingJelly) instead of u > threshold.
        decay_input: weigh the input with 1 - decay (SpikingJelly's default).
        learn_decay: make the decay a parameter (clamp it yourself, or use `PLIF`).
        learn_threshold: make the threshold a parameter.
        stateful: keep the membrane from call to call until `reset()`; gradients flow through
            it. By default each call starts from zero.
        membrane: "store" what the backward pass needs of the membrane potentials, or "recompute"
            them there: for the same gradients, bit for bit, some bits a neuron and step are kept
            where it would be four bytes or eight, and the layer before computes its currents
            twice. It does so when the currents are those that a `Linear` or `Conv2d` of h2learn
            returned right before, untouched, with T above 1; else it stores (docs/neurons.md).

    Shape:
        currents [T, B, ...] -> SpikeTensor [T, B, ...]; with `step_mode = "s"`, [B, ...] to
        [B, ...], one step a call, the membrane kept between calls.

    Raises:
        ValueError: an option out of its range, currents of the wrong rank or not finite.
    """

    MEMBRANES = ("store", "recompute")

    decay: Tensor
    threshold: Tensor

    def __init__(
        self,
        decay: float = 0.25,
        threshold: float = 0.25,
        *,
        surrogate: Surrogate | None = None,
        reset: str = "hard",
        detach_reset: bool = False,
        inclusive: bool = False,
        decay_input: bool = False,
        learn_decay: bool = False,
        learn_threshold: bool = False,
        stateful: bool = False,
        membrane: str = "store",
    ) -> None:
        super().__init__()
        if membrane not in self.MEMBRANES:
            raise ValueError(f"membrane must be 'store' or 'recompute', got {membrane!r}")
        decay = checks.number("decay", decay)
        threshold = checks.number("threshold", threshold)
        detach_reset = checks.flag("detach_reset", detach_reset)
        inclusive = checks.flag("inclusive", inclusive)
        decay_input = checks.flag("decay_input", decay_input)
        surrogate = Rect() if surrogate is None else surrogate
        if not isinstance(surrogate, Surrogate):
            raise TypeError(
                "surrogate must be one of h2learn.surrogate's (Rect, Triangle, ATan, Sigmoid), "
                f"got {surrogate!r}"
            )
        ops.core_soma(
            decay, threshold, inclusive, reset, detach_reset, decay_input,
            surrogate.name, surrogate.width, surrogate.scale,
        )  # fmt: skip  # checks every value
        self.surrogate = surrogate
        self.reset_mode = reset
        self.detach_reset = detach_reset
        self.inclusive = inclusive
        self.decay_input = decay_input
        self.stateful = checks.flag("stateful", stateful)
        self.membrane_mode = membrane
        self._step_mode = "m"
        self._scalar("decay", decay, learn_decay)
        self._scalar("threshold", threshold, learn_threshold)
        self.membrane: Tensor | None = None
        self._activity_checked = False

    def _scalar(self, name: str, value: float, learned: bool) -> None:
        tensor = torch.tensor(value, dtype=torch.float32)
        if learned:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor, persistent=False)

    @property
    def step_mode(self) -> str:
        """All T steps a call ("m"), or one step a call ("s"): SpikingJelly's names."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, mode: str) -> None:
        if mode not in ("m", "s"):
            raise ValueError(f"step_mode must be 'm' or 's', got {mode!r}")
        self._step_mode = mode

    def reset(self) -> None:
        """Forgets the membrane: the next call starts from zero."""
        self.membrane = None

    def __getstate__(self) -> dict[str, Any]:
        # What copies and pickles: the kept membrane's values, not the graph it is part of.
        state = dict(self.__dict__)
        if self.membrane is not None:
            state["membrane"] = self.membrane.detach()
        return state

    def effective_decay(self) -> Tensor:
        """The decay in use, a scalar tensor."""
        return self.decay

    def forward(self, currents: Tensor) -> SpikeTensor:
        """Spikes of all steps of this call."""
        return self._fire(currents)

    def _fire(self, currents: Tensor, pool: list[int] | None = None) -> SpikeTensor:
        """The spikes, or their averages over the windows of a pooling right behind.

        Args:
            currents: as `forward` takes them.
            pool: channels, height, width, kernel (2) and stride (2) of that pooling. Not in a call
                that looks at its activity, which needs the spikes themselves.
        """
        lead = 2 if self._step_mode == "m" else 1
        _check_rank(currents, lead)
        keep = self.stateful or lead == 1
        initial = self.membrane if keep else None
        if initial is not None and initial.shape != currents.shape[lead - 1 :]:
            raise ValueError(
                f"currents of shape {list(currents.shape)} do not continue the kept membrane of "
                f"shape {list(initial.shape)}; call reset() between sequences"
            )
        arguments: dict[str, Any] = {
            "decay": self.effective_decay(),
            "threshold": self.threshold,
            "surrogate": self.surrogate,
            "lead": lead,
            "initial": initial,
            "inclusive": self.inclusive,
            "reset": self.reset_mode,
            "detach_reset": self.detach_reset,
            "decay_input": self.decay_input,
            "keep_last": keep,
            "recompute": self.membrane_mode == "recompute",
            "pool": pool,
        }
        if recording.listening():
            with recording.owned_by(self):
                spikes, last = soma(currents, **arguments)
        else:
            spikes, last = soma(currents, **arguments)
        if keep:
            self.membrane = last
        if self._looks_at_activity:
            self._check_activity(spikes)
        return spikes

    @property
    def _looks_at_activity(self) -> bool:
        """Whether a call looks at its spikes: the first in training, of neurons that start anew.

        A layer that keeps its membrane may need more than one call to reach its threshold.
        """
        keep = self.stateful or self._step_mode == "s"
        done = keep or self._activity_checked or torch.compiler.is_compiling()
        return self.training and not done

    def _check_activity(self, spikes: SpikeTensor) -> None:
        """Warns once, at the first training call, about a layer that cannot learn."""
        self._activity_checked = True
        rate = spikes.firing_rate()
        if spikes.numel() == 0 or 0.0 < rate <= SATURATED:
            return
        state = "dead: no neuron fired" if rate == 0.0 else f"saturated: {rate:.0%} fired"
        warnings.warn(
            f"{type(self).__name__} layer of shape {list(spikes.features)} is {state} in its "
            "first training call; scale its inputs or weights, for example with "
            "h2learn.nn.calibrate(model, inputs)",
            ActivityWarning,
            stacklevel=4,
        )

    def extra_repr(self) -> str:
        """What printing the module shows."""
        text = (
            f"decay={self.effective_decay().item():g}, threshold={self.threshold.item():g}, "
            f"surrogate={type(self.surrogate).__name__}(width={self.surrogate.width:g}, "
            f"scale={self.surrogate.scale:g}), reset={self.reset_mode}"
        )
        if self.membrane_mode != "store":
            text += f", membrane={self.membrane_mode}"
        flags = ("detach_reset", "inclusive", "decay_input", "stateful")
        return text + "".join(f", {flag}" for flag in flags if getattr(self, flag))


def _check_rank(currents: Tensor, lead: int) -> None:
    checks.tensor("currents", currents)
    layout = "[T, B, ...]" if lead == 2 else "[B, ...]"
    if currents.dim() <= lead:
        raise ValueError(
            f"currents must have shape {layout} with at least one feature dimension, "
            f"got {list(currents.shape)}"
        )
    if lead == 2 and currents.shape[0] == 0:
        raise ValueError(f"currents must have T of at least 1, got shape {list(currents.shape)}")


def _refuse(module: LIF, options: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in options:
            raise TypeError(f"{type(module).__name__} has no option {name}: it is fixed; use LIF")


class IF(LIF):
    """Integrate-and-fire neurons: LIF with a decay of 1 (no leak)."""

    def __init__(self, threshold: float = 0.25, **options: Any) -> None:
        _refuse(self, options, "decay", "decay_input", "learn_decay")
        super().__init__(decay=1.0, threshold=threshold, **options)


class PLIF(LIF):
    """LIF whose decay is learned as sigmoid(parameter), one a layer (Fang et al., ICCV 2021).

    Args:
        decay: initial value, strictly between 0 and 1.
    """

    def __init__(self, decay: float = 0.25, threshold: float = 0.25, **options: Any) -> None:
        _refuse(self, options, "learn_decay")
        if not 0.0 < checks.number("decay", decay) < 1.0:
            raise ValueError(f"decay must lie strictly between 0 and 1, got {decay}")
        super().__init__(decay, threshold, **options)
        self.decay_logit = nn.Parameter(torch.tensor(math.log(decay / (1.0 - decay))))

    def effective_decay(self) -> Tensor:
        """sigmoid(decay_logit)."""
        return torch.sigmoid(self.decay_logit)


def reset(model: nn.Module) -> None:
    """Forgets the kept membranes of every neuron layer in `model`."""
    checks.module("model", model)
    for module in model.modules():
        if isinstance(module, LIF):
            module.reset()


def set_step_mode(model: nn.Module, mode: str) -> None:
    """Sets every neuron layer of `model` to take all steps a call ("m") or one step ("s")."""
    checks.module("model", model)
    for module in model.modules():
        if isinstance(module, LIF):
            module.step_mode = mode
