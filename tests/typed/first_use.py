"""The first lines of a user, run from the installed package: a network, an attack, a spectrum."""

import torch

from arlib import attacks, data, models, spectra, studies

x, y = data.load("digits", device="cpu").test[:16]
net = models.build("resnet8", "digits", 4).eval()
adversarial = attacks.pgd(net, x, y, eps=8 / 255, steps=2)
assert (adversarial - x).abs().max() <= 8 / 255 + 1e-6
assert len(spectra.singular_values(torch.eye(4)[:, :, None, None], 8)) == 4 * 64
assert not studies.load("digits").missing(), "the package lacks its records"
print("arlib works")
