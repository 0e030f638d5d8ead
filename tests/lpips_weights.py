"""Random weights of LPIPS, as state dicts of torchvision and of the authors."""

import numpy as np
from inception_weights import random_weights

# Convolutions by their places in torchvision's `features`: [O, I, h, w].
CONVS = {
    "alex": {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    },
    "vgg": {
        0: (64, 3, 3, 3),
        2: (64, 64, 3, 3),
        5: (128, 64, 3, 3),
        7: (128, 128, 3, 3),
        10: (256, 128, 3, 3),
        12: (256, 256, 3, 3),
        14: (256, 256, 3, 3),
        17: (512, 256, 3, 3),
        19: (512, 512, 3, 3),
        21: (512, 512, 3, 3),
        24: (512, 512, 3, 3),
        26: (512, 512, 3, 3),
        28: (512, 512, 3, 3),
    },
}
TAPS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def backbone_weights(net):
    """Of the convolutions, and one of the classifier as the real files have it."""
    shapes = {"classifier.6.bias": (1000,)}
    for place, shape in CONVS[net].items():
        shapes |= {f"features.{place}.weight": shape}
        shapes |= {f"features.{place}.bias": shape[:1]}
    return random_weights(shapes)


def linear_weights(net):
    """Of the linear layers, none below 0."""
    shapes = {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(TAPS[net])}
    return {name: np.abs(value) for name, value in random_weights(shapes).items()}


def torch_features(net):
    """torchvision's `features` of the network, with `backbone_weights`."""
    import torch
    from torch import nn

    def conv(o, i, side, stride=1, padding=1):
        return [nn.Conv2d(i, o, side, stride, padding), nn.ReLU(inplace=True)]

    if net == "alex":
        layers = [*conv(64, 3, 11, 4, 2), nn.MaxPool2d(3, 2)]
        layers += [*conv(192, 64, 5, 1, 2), nn.MaxPool2d(3, 2)]
        layers += conv(384, 192, 3) + conv(256, 384, 3) + conv(256, 256, 3)
        layers += [nn.MaxPool2d(3, 2)]
    else:
        layers, i = [], 3
        for o, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers, i = layers + conv(o, i, 3), o
            layers.append(nn.MaxPool2d(2, 2))
    features = nn.Sequential(*layers)
    weights = {k.removeprefix("features."): v for k, v in backbone_weights(net).items()}
    del weights["classifier.6.bias"]
    features.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return features
