"""The default RealNVP in PyTorch, a reference for exactness and speed.

`python benchmarks/torch_realnvp.py WEIGHTS.npz IMAGES.npz` prints the
log-densities, in nats, of the points `x` in `IMAGES.npz`, float32
`[n, C, H, W]`, images plus their noise. It needs PyTorch and NumPy only. The
weights are those that `tf_realnvp.pytorch.save_weights` writes.
"""

import math
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Network(nn.Module):
    """A coupling network, `[n, C, H, W]` to `[n, 2 C, H, W]`."""

    def __init__(self, channels, filters, num_blocks):
        super().__init__()

        def conv(inputs, outputs, size):
            layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
            return weight_norm(layer)

        half = filters // 2
        self.layers = nn.ModuleList([conv(channels, filters, 3)])
        for _ in range(num_blocks):
            self.layers.append(
                nn.Sequential(
                    conv(filters, half, 1),
                    nn.ReLU(),
                    conv(half, half, 3),
                    nn.ReLU(),
                    conv(half, filters, 1),
                )
            )
        self.layers.append(conv(filters, 2 * channels, 3))

    def forward(self, x):
        first, *blocks, last = self.layers
        h = F.relu(first(x))
        for block in blocks:
            h = h + block(h)
        return last(F.relu(h))


class Coupling(nn.Module):
    """An affine coupling, from image to latents."""

    def __init__(self, mask, filters, num_blocks):
        super().__init__()
        self.register_buffer("mask", mask)
        self.network = Network(mask.shape[0], filters, num_blocks)
        self.rescale = nn.Parameter(torch.zeros(1))
        self.reshift = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        mask = self.mask.to(x.dtype)
        a, t = self.network(mask * x).chunk(2, dim=1)
        log_scale = self.rescale * torch.tanh(a.float()) + self.reshift
        log_scale = (1 - mask) * log_scale
        z = x * torch.exp(log_scale) + (1 - mask) * t
        return z, log_scale.sum(dim=(1, 2, 3))


class RealNVP(nn.Module):
    """The flow with two scales, and 3, 3 and 4 couplings."""

    def __init__(
        self,
        shape=(3, 32, 32),
        filters=128,
        num_blocks=8,
        alpha=0.1,
        levels=256,
    ):
        super().__init__()
        self.alpha, self.levels = alpha, levels
        channels, height, width = shape
        half = (2 * channels, height // 2, width // 2)
        squeezed = (4 * channels, height // 2, width // 2)
        masks = [
            *[_checkerboard(shape, odd) for odd in (1, 0, 1)],
            *[_channels(squeezed, odd) for odd in (1, 0, 1)],
            *[_checkerboard(half, odd) for odd in (1, 0, 1, 0)],
        ]
        self.flows = nn.ModuleList(
            Coupling(mask, filters, num_blocks) for mask in masks
        )

    def log_prob(self, x):
        """Returns the log-densities of points `[n, C, H, W]`, in nats."""
        num_dims = x[0].numel()
        p = self.alpha / 2 + (1 - self.alpha) * x / self.levels
        z = torch.log(p) - torch.log1p(-p)
        log_det = (F.softplus(z) + F.softplus(-z)).sum(dim=(1, 2, 3))
        log_det = log_det + num_dims * math.log((1 - self.alpha) / self.levels)
        for flow in self.flows[:3]:
            z, change = flow(z)
            log_det = log_det + change
        # Row and column of the block, then the channel of the image.
        n, c, h, w = z.shape
        z = z.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        z = z.reshape(n, 4 * c, h // 2, w // 2)
        for flow in self.flows[3:6]:
            z, change = flow(z)
            log_det = log_det + change
        z, out = z.chunk(2, dim=1)
        for flow in self.flows[6:]:
            z, change = flow(z)
            log_det = log_det + change
        squares = (z**2).sum(dim=(1, 2, 3)) + (out**2).sum(dim=(1, 2, 3))
        return log_det - (squares + num_dims * math.log(2 * math.pi)) / 2


def _checkerboard(shape, odd):
    _, height, width = shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) % 2 == odd).expand(shape).clone()


def _channels(shape, odd):
    mask = torch.arange(shape[0]) % 2 == odd
    return mask[:, None, None].expand(shape).clone()


def load(arrays) -> RealNVP:
    """Returns the model with the weights of `pytorch.save_weights`."""
    convolutions = [k for k in arrays if k.endswith("weight_v")]
    filters, channels = arrays[convolutions[0]].shape[:2]
    num_blocks = (len(convolutions) // 10 - 2) // 3
    mask = next(arrays[k] for k in arrays if k.endswith("mask"))
    shape = (int(channels), *mask.shape[-2:])
    model = RealNVP(shape, int(filters), num_blocks)
    # In the order of the parts of their names; only the last part is the same.
    own = model.state_dict()
    for ending, others in {
        "rescale": "rescale",
        "reshift": "reshift",
        "bias": "bias",
        "original0": "weight_g",
        "original1": "weight_v",
    }.items():
        names = [k for k in own if k.endswith(ending)]
        values = [arrays[k] for k in arrays if k.endswith(others)]
        for name, value in zip(names, values, strict=True):
            own[name] = torch.from_numpy(value).reshape(own[name].shape)
    model.load_state_dict(own)
    return model


if __name__ == "__main__":
    weights, images = map(np.load, sys.argv[1:])
    with torch.no_grad():
        values = load(weights).log_prob(torch.from_numpy(images["x"]))
    print(" ".join(f"{value:.9g}" for value in values.tolist()))
