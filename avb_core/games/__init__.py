"""Every objective of the book is a game: named players, each with its own parameters and its own loss."""

from avb_core.games.adaptive_contrast import AdaptiveContrastAVB
from avb_core.games.avb import AVB
from avb_core.games.game import Game, LatentVariableGame
from avb_core.games.gan import GAN
from avb_core.games.iwae import IWAE
from avb_core.games.two_adversaries import JointAdversary, TwoAdversaries
from avb_core.games.vae import VAE

__all__ = [
    "AVB",
    "GAN",
    "IWAE",
    "VAE",
    "AdaptiveContrastAVB",
    "Game",
    "JointAdversary",
    "LatentVariableGame",
    "TwoAdversaries",
]
