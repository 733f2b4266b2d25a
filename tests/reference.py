"""RealNVP in NumPy, written from the equations alone, to test against.

All in float64 and for a batch of images `[n, height, width, channels]`. It
shares no code and no library with what it tests.
"""

import numpy as np


def log_normal(z):
    return -0.5 * (z**2 + np.log(2 * np.pi))


def weight_norm(direction, gain):
    """Kernels `gain * direction / ||direction||`, a norm for each output."""
    return gain * direction / np.sqrt(np.sum(direction**2, axis=(0, 1, 2)))


def conv2d(images, kernel, bias, mode="constant"):
    """Convolution with an odd kernel and stride 1, padded as `np.pad` does."""
    size = kernel.shape[:2]
    widths = [(0, 0), *((n // 2,) * 2 for n in size), (0, 0)]
    padded = np.pad(images, widths, mode)
    patches = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
    return np.einsum("nyxcij,ijcd->nyxd", patches, kernel, optimize=True) + bias


def residual_blocks(hidden, weights, shifts=None, mode="constant"):
    """One block after the other; `weights` are nine arrays, stacked.

    `shifts` are vectors of each image, for each block, if any: they are added
    to what the first convolution of the block gives.
    """
    for number, block in enumerate(zip(*weights, strict=True)):
        branch = hidden
        for i in range(0, 9, 3):
            if i > 0:
                branch = np.maximum(branch, 0.0)
            kernel = weight_norm(block[i], block[i + 1])
            branch = conv2d(branch, kernel, block[i + 2], mode)
            if i == 0 and shifts is not None:
                branch += np.array(shifts[number])[:, np.newaxis, np.newaxis]
        hidden = hidden + branch
    return hidden


def coupling_network(
    images, weights, labels=None, contexts=(), mode="constant"
):
    """`weights` as in the network: 3 arrays, 9 of all blocks, 3 arrays.

    With `labels` of the images one more, the embedding of the classes. Then one
    for the code of the contexts, three for each image. `mode` is that of
    `np.pad`.
    """
    weights = [np.asarray(weight, np.float64) for weight in weights]
    first, blocks, last = weights[:3], weights[3:12], weights[12:15]
    rest, shifts = weights[15:], 0.0
    if labels is not None:
        embedding, *rest = rest
        shifts = np.stack([embedding[:, label] for label in labels], axis=1)
    hidden = conv2d(images, weight_norm(*first[:2]), first[2], mode)
    for context in contexts:
        if context.ndim == 2:
            matrix, *rest = rest
            shifts = shifts + context @ matrix
        else:
            direction, gain, bias, *rest = rest
            height, own_height = images.shape[1], context.shape[1]
            if height < own_height:
                factor = own_height // height
                while factor > 2 and context.shape[3] * factor**2 > 32:
                    context, factor = half_size(context), factor // 2
                context = squeeze(context, factor)
            else:
                block = np.ones([1, *[height // own_height] * 2, 1])
                context = np.kron(context, block)
            hidden = hidden + conv2d(
                context, weight_norm(direction, gain), bias, mode
            )
    shifts = shifts if np.ndim(shifts) else None
    hidden = np.maximum(hidden, 0.0)
    hidden = np.maximum(residual_blocks(hidden, blocks, shifts, mode), 0.0)
    return conv2d(hidden, weight_norm(*last[:2]), last[2], mode)


def coupling_inverse(x, mask, network, rescale, reshift, given=0.0):
    """Image to latents: `z`, and what each component adds to the log-det.

    Components that are `given` (1, else 0) are kept as well, and not seen.
    """
    kept = np.broadcast_to(mask, x.shape).astype(x.dtype)
    outputs = network((1.0 - given) * kept * x)
    channels = x.shape[-1]
    scale, shift = outputs[..., :channels], outputs[..., channels:]
    changed = (1.0 - kept) * (1.0 - given)
    log_scale = changed * (rescale * np.tanh(scale) + reshift)
    z = x * np.exp(log_scale) + changed * shift
    return z, log_scale


def checkerboard_mask(shape, parity):
    """True at the pixels whose `row + column` has the given parity."""
    row, column, *_ = np.indices(shape)
    return (row + column) % 2 == parity


def channel_mask(shape, parity):
    """True at the channels whose index has the given parity."""
    return np.indices(shape)[2] % 2 == parity


def half_mask(shape, row):
    """True at the channels that were a row of blocks of four pixels."""
    return np.indices(shape)[2] // (shape[2] // 2) == row


def squeeze(x, block_size=2):
    """Blocks of pixels become channels: row, then column, then channel."""
    batch, height, width, channels = x.shape
    rows, columns = height // block_size, width // block_size
    x = x.reshape(batch, rows, block_size, columns, block_size, channels)
    return np.swapaxes(x, 2, 3).reshape(batch, rows, columns, -1)


def half_size(images):
    """Returns the means of blocks of 2x2 pixels."""
    blocks = squeeze(images)
    return blocks.reshape(*blocks.shape[:3], 4, -1).mean(axis=3)


def unsqueeze(z, block_size=2):
    """Undoes `squeeze`."""
    batch, rows, columns, _ = z.shape
    z = z.reshape(batch, rows, columns, block_size, block_size, -1)
    return np.swapaxes(z, 2, 3).reshape(
        batch, rows * block_size, columns * block_size, -1
    )


def real_nvp(
    x,
    couplings,
    num_colors,
    alpha,
    num_scales=2,
    num_couplings=(3, 3, 4),
    labels=None,
    moments=None,
    parts=None,
    contexts=(),
    mode="constant",
    given=None,
    masks="alternating",
):
    """The whole model, from dequantized images to latents.

    Args:
      x: Images, `[n, height, width, channels]`, in `[0, num_colors)`.
      couplings: A triple of a network's 15 weights, rescale and reshift for
        each, in their order.
      num_colors: Number of levels; `None` for real numbers.
      alpha: The margin of the logit.
      num_scales: Number of resolutions.
      num_couplings: With checkerboards and with channel masks at a scale, and
        at the last.
      labels: Of the images, if there are classes.
      moments: Mean and standard deviation of each channel, of real numbers.
      parts: A list for the terms of the log-density: for each its scale,
        whether it is of latents, and its values for the components of that
        scale, `[n, height / 2**scale, width / 2**scale, channels]`.
      contexts: As coupling networks get them.
      mode: Likewise.
      given: 1 where a component is given, else 0, shaped like `x`. The density
        is that of the others.
      masks: `channel_masks` of the model.

    Returns:
      Latents and log-density, `[n, height / 2, width / 2, 4 * channels]` and
      `[n]`.
    """
    x = np.asarray(x, np.float64)
    parts = [] if parts is None else parts
    if num_colors is None:
        mean, std = moments
        z, steps = (x - mean) / std, np.broadcast_to(-np.log(std), x.shape)
    else:
        p = alpha / 2 + (1 - alpha) * x / num_colors
        z = np.log(p) - np.log(1 - p)
        steps = np.log((1 - alpha) / num_colors) - np.log(p) - np.log(1 - p)
    given = np.zeros(x.shape) if given is None else given
    parts.append((0, False, (1.0 - given) * steps))

    couplings = iter(couplings)
    rest = []
    for scale in range(num_scales):
        is_last = scale == num_scales - 1
        first = num_couplings[2 if is_last else 0]
        steps = [(checkerboard_mask, (i + 1) % 2) for i in range(first)]
        if not is_last:
            steps += [
                (half_mask, i % 2)
                if masks == "mixed" and i % 4 < 2
                else (channel_mask, (i + 1) % 2)
                for i in range(num_couplings[1])
            ]
        for index, (make_mask, parity) in enumerate(steps):
            if index == first:
                z, given = squeeze(z), squeeze(given)
            weights, rescale, reshift = next(couplings)
            z, change = coupling_inverse(
                z,
                make_mask(z.shape[1:], parity),
                lambda kept, weights=weights: coupling_network(
                    kept, weights, labels, contexts, mode
                ),
                np.float64(rescale),
                np.float64(reshift),
                given,
            )
            part = unsqueeze(change) if index >= first else change
            parts.append((scale, False, part))
        if is_last:
            parts.append((scale, True, (1.0 - given) * log_normal(z)))
        else:
            z, out = np.split(z, 2, axis=-1)
            given, others = np.split(given, 2, axis=-1)
            part = (1.0 - others) * log_normal(out)
            part = np.concatenate([0.0 * z, part], axis=-1)
            parts.append((scale, True, unsqueeze(part)))
            rest.append(out)
    z = np.concatenate([z, rest.pop()], axis=-1)
    while rest:
        z = np.concatenate([unsqueeze(z), rest.pop()], axis=-1)
    return z, sum(part.sum(axis=(1, 2, 3)) for *_, part in parts)


def context_code(context, weights):
    """What a dense network makes of a context, an image at most 8 high."""
    while context.ndim == 4 and context.shape[1] > 8:
        context = half_size(context)
    code = context.reshape(len(context), -1)
    for kernel, bias in (weights[:2], weights[2:]):
        code = code @ np.float64(kernel) + np.float64(bias)
        code = code / (1.0 + np.exp(-code))  # "silu"
    return code


def unet(images, weights, mode="constant"):
    """A direction, a gain and a bias of each convolution, in their order."""
    weights = iter([np.float64(weight) for weight in weights])

    def convolve(images, times=2):
        for _ in range(times):
            kernel = weight_norm(next(weights), next(weights))
            images = np.maximum(conv2d(images, kernel, next(weights), mode), 0)
        return images

    def level(images):
        height, width = images.shape[1:3]
        images = convolve(images)
        if height % 2 or width % 2 or min(height, width) < 14:
            whole = images.mean(axis=(1, 2), keepdims=True)
            images = convolve(images + convolve(whole, 1))
        else:
            shape = len(images), height // 2, 2, width // 2, 2, images.shape[3]
            lower = level(images.reshape(shape).max(axis=(2, 4)))
            upper = lower.repeat(2, axis=1).repeat(2, axis=2)
            images = convolve(np.concatenate([upper, images], axis=-1))
        return images

    images = level(images)
    kernel = weight_norm(next(weights), next(weights))
    return conv2d(images, kernel, next(weights), mode)


def of_model(model, points, labels=None, parts=None, contexts=(), given=None):
    """What `real_nvp` gives of points, with the weights of a model.

    The weights of the contexts are the moments of all of them, then four of the
    network of each, then those of the U-Net.
    """
    mode = {"same": "constant", "periodic": "wrap"}[model.padding]
    number = len(contexts)
    own = [v.numpy() for v in model.condition.named_variables.values()]
    contexts = [
        (context - np.float64(mean)) / np.float64(std)
        for context, (mean, std) in zip(contexts, own, strict=False)
    ]
    codes = [
        context_code(context, own[number + 4 * i : number + 4 * i + 4])
        for i, context in enumerate(contexts)
    ]
    contexts = [context for context in contexts if context.ndim == 4]
    if contexts:
        height = model.image_shape[0]
        whole = [
            np.kron(c, np.ones((1, *(2 * [height // c.shape[1]]), 1)))
            for c in contexts
        ]
        inputs = np.concatenate(whole, axis=-1)
        contexts.append(unet(inputs, own[5 * number :], mode))
    if codes:
        contexts.insert(0, np.concatenate(codes, axis=1))
    moments = [v.numpy() for v in model.variables if v.name == "moments"]
    couplings = [
        (network.get_weights(), coupling.rescale, coupling.reshift)
        for network, coupling in zip(
            model.networks, model.couplings, strict=True
        )
    ]
    return real_nvp(
        points,
        couplings,
        model.num_colors,
        model.alpha,
        model.num_scales,
        model.num_couplings,
        labels,
        *(moments or [None]),
        parts,
        contexts,
        mode,
        given,
        model.channel_masks,
    )
