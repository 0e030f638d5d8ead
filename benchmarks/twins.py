"""Train steps of five recipes written again in eager torch, layer for layer.

Glow is put together from the blocks of the package normflows, as its users do.
"""

import itertools
from collections.abc import Callable

from ml_collections import ConfigDict


def _num_parameters(net) -> int:
    return sum(p.numel() for p in net.parameters())


def vae(config: ConfigDict, batch_size: int) -> tuple[Callable[[], None], int]:
    """A step of configs/vae_mnist.py, and the number of parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    model = config.model
    width, latent = model.network.features, model.latent_features

    def mlp(sizes):
        layers = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    pixels = 28 * 28
    encoder = mlp([pixels, *width, 2 * latent])
    decoder = mlp([latent, *width, pixels])
    both = nn.ModuleList([encoder, decoder])
    optimizer = torch.optim.Adam(both.parameters(), 1e-3)
    image = torch.rand(batch_size, pixels)

    def call():
        x = torch.bernoulli(image)
        mean, log_var = encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
        nll = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * torch.sum(mean**2 + log_var.exp() - log_var - 1)
        loss = (nll + kl) / batch_size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return call, _num_parameters(both)


def _dcgan(features: int, latent: int, levels: int, *, critic: bool):
    from torch import nn

    class Cut(nn.Module):
        def forward(self, x):
            return x[:, :, :7, :7]  # Of 8 x 8, which 4 x 4 doubles to.

    def norm(width, *, one_group=False):
        # Of one group: layer norm over an example, with a scale for each channel.
        return nn.GroupNorm(1, width) if one_group else nn.BatchNorm2d(width)

    sides = [28, 14, 7, 4][: levels + 1]
    widths = [features << i for i in range(levels)]
    top = widths[-1]
    generator = [
        nn.Linear(latent, sides[-1] ** 2 * top, bias=False),
        nn.Unflatten(1, (top, sides[-1], sides[-1])),
    ]
    discriminator = []
    for level in reversed(range(levels)):
        out = widths[level - 1] if level else 1
        generator += [norm(widths[level]), nn.ReLU()]
        deconv = nn.ConvTranspose2d(widths[level], out, 4, 2, 1, bias=not level)
        generator += [deconv, Cut()] if sides[level] == 7 else [deconv]
    for level, width in enumerate(widths):
        before = widths[level - 1] if level else 1
        odd = [nn.ZeroPad2d((0, 1, 0, 1))] if sides[level] == 7 else []
        discriminator += [*odd, nn.Conv2d(before, width, 4, 2, 1, bias=not level)]
        discriminator += [norm(width, one_group=critic)] if level else []
        discriminator += [nn.LeakyReLU(0.2)]
    out = nn.Linear(sides[-1] ** 2 * top, 1, bias=not critic)
    discriminator += [nn.Flatten(), out]
    return nn.Sequential(*generator, nn.Tanh()), nn.Sequential(*discriminator)


def dcgan(config: ConfigDict, batch_size: int) -> tuple[Callable[[], None], int]:
    """A step of configs/dcgan_mnist.py, and the number of parameters."""
    import torch
    from torch.nn.functional import softplus

    model = config.model
    latent = model.latent_features
    wide, narrow = (
        _dcgan(features, latent, model.levels, critic=False)
        for features in (model.generator_features, model.features)
    )
    generator, discriminator = wide[0], narrow[1]
    for_g, for_d = (
        torch.optim.Adam(
            net.parameters(), config.optimizers[name].learning_rate, betas=(0.5, 0.999)
        )
        for name, net in (("generator", generator), ("discriminator", discriminator))
    )
    real = torch.rand(batch_size, 1, 28, 28) * 2 - 1

    def generated():
        return generator(torch.rand(batch_size, latent) * 2 - 1)

    def judged(x):
        return discriminator(x + model.instance_noise * torch.randn_like(x))

    def call():
        loss = softplus(-judged(real)) + softplus(judged(generated().detach()))
        for_d.zero_grad(set_to_none=True)
        loss.mean().backward()
        for_d.step()
        loss = softplus(-judged(generated()))
        for_g.zero_grad(set_to_none=True)
        loss.mean().backward()
        for_g.step()
        loss.mean().item()

    return call, _num_parameters(generator) + _num_parameters(discriminator)


def wgan_gp(config: ConfigDict, batch_size: int) -> tuple[Callable[[], None], int]:
    """A step of configs/wgan_gp_mnist.py, and the number of parameters."""
    import torch

    model = config.model
    latent = model.latent_features
    generator, critic = _dcgan(model.generator.features, latent, 2, critic=True)
    for_g, for_d = (
        torch.optim.Adam(net.parameters(), 1e-4, betas=(0.0, 0.9))
        for net in (generator, critic)
    )
    steps, weight = model.critic_steps, model.penalty_weight
    real = torch.rand(steps, batch_size, 1, 28, 28) * 2 - 1

    def critic_step(x):
        fake = generator(torch.randn(batch_size, latent)).detach()
        share = torch.rand(batch_size, 1, 1, 1)
        between = (share * x + (1 - share) * fake).requires_grad_()
        (grad,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (grad.flatten(1).norm(dim=1) - 1).square()
        loss = critic(fake) - critic(x) + weight * penalty[:, None]
        for_d.zero_grad(set_to_none=True)
        loss.mean().backward()
        for_d.step()

    def call():
        for x in real:
            critic_step(x)
        loss = -critic(generator(torch.randn(batch_size, latent)))
        for_g.zero_grad(set_to_none=True)
        loss.mean().backward()
        for_g.step()
        loss.mean().item()

    return call, _num_parameters(generator) + _num_parameters(critic)


def pixelcnn_net(model: ConfigDict):
    """The network of configs/pixelcnn_mnist.py, layers named as in ours."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    width = model.network.features

    class MaskedConv(nn.Conv2d):
        """Of rows up to a pixel's own, and there of the pixels on its left."""

        def __init__(self, ins, outs, size, mask):
            super().__init__(ins, outs, (size // 2 + 1, size))
            visible = torch.ones_like(self.weight)
            visible[:, :, -1, size // 2 + (mask == "B") :] = 0
            self.register_buffer("visible", visible, persistent=False)
            self.around = (size // 2, size // 2, size // 2, 0)

        def forward(self, x):
            return F.conv2d(
                F.pad(x, self.around), self.weight * self.visible, self.bias
            )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv2d(2 * width, width, 1)
            self.conv = MaskedConv(width, width, 3, "B")
            self.conv_out = nn.Conv2d(width, 2 * width, 1)

        def forward(self, x):
            h = self.conv(F.relu(self.conv_in(F.relu(x))))
            return x + self.conv_out(F.relu(h))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = MaskedConv(1, 2 * width, 7, "A")
            self.blocks = nn.Sequential(
                *[Block() for _ in range(model.network.num_blocks)]
            )
            self.conv_mid = nn.Conv2d(2 * width, model.network.out_features, 1)
            self.conv_out = nn.Conv2d(model.network.out_features, 1, 1)

        def forward(self, x):
            h = self.blocks(self.conv_in(x))
            return self.conv_out(F.relu(self.conv_mid(F.relu(h))))

    return Net()


def bernoulli_nll(logits, x):
    """-log p of binary pixels, nats [B]."""
    from torch.nn import functional as F  # noqa: N812

    nll = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return nll.flatten(1).sum(dim=1)


def _clipped_step(net, optimizer, loss, clip_norm: float) -> None:
    import torch

    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
    optimizer.step()
    loss.item()


def pixelcnn(config: ConfigDict, batch_size: int) -> tuple[Callable[[], None], int]:
    """A step of configs/pixelcnn_mnist.py, and the number of parameters."""
    import torch

    net = pixelcnn_net(config.model)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    image = torch.rand(batch_size, 1, 28, 28)

    def call():
        x = torch.bernoulli(image)
        loss = bernoulli_nll(net(2 * x - 1), x).mean()
        _clipped_step(net, optimizer, loss, config.optimizers.pixelcnn.clip_norm)

    return call, _num_parameters(net)


def glow_net(model: ConfigDict, size: int = 28):
    """The flow of configs/glow_mnist.py on images of one channel, by normflows.

    Its maps go from the latents to the data. normflows has no prior that depends on
    what goes on: the map that splits holds it here.
    """
    import normflows as nf
    import torch
    from torch import nn

    class Split(nf.flows.Merge):
        """Half of the channels, and standardised noise of the other half."""

        def __init__(self, half):
            super().__init__()
            self.conv = nn.Conv2d(half, 2 * half, 3, padding=1)
            nn.init.zeros_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)
            self.log_scale = nn.Parameter(torch.zeros(2 * half, 1, 1))

        def inverse(self, z):
            (first, second), _ = super().inverse(z)
            out = self.conv(first) * torch.exp(3 * self.log_scale)
            mean, log_sigma = out.chunk(2, dim=1)
            second = (second - mean) * torch.exp(-log_sigma)
            return [first, second], -log_sigma.flatten(1).sum(dim=1)

    bases, flows, splits, channels = [], [], [], 1
    for level in range(model.num_levels):
        channels, size = 4 * channels, size // 2
        last = level == model.num_levels - 1
        blocks = [
            nf.flows.GlowBlock(channels, model.network.features, scale_map="sigmoid")
            for _ in range(model.num_steps)
        ]
        end = [nf.flows.ActNorm((channels, 1, 1))] if last else []
        flows.insert(0, [*end, *blocks, nf.flows.Squeeze()])
        if not last:
            channels //= 2
            splits.insert(0, Split(channels))
        shape = (channels, size, size)
        bases.insert(0, nf.distributions.DiagGaussian(shape, trainable=False))
    transform = nf.transforms.Logit(model.alpha)
    return nf.MultiscaleFlow(bases, flows, splits, transform, class_cond=False)


def glow(config: ConfigDict, batch_size: int) -> tuple[Callable[[], None], int]:
    """A step of configs/glow_mnist.py, and the number of parameters."""
    import torch

    net = glow_net(config.model)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    image = torch.randint(256, (batch_size, 1, 28, 28))

    def call():
        loss = net.forward_kld((image + torch.rand(image.shape)) / 256)
        _clipped_step(net, optimizer, loss, config.optimizers.flow.clip_norm)

    return call, _num_parameters(net)


TWINS = {
    "dcgan": dcgan,
    "glow": glow,
    "pixelcnn": pixelcnn,
    "vae": vae,
    "wgan_gp": wgan_gp,
}
