"""Inference on the device. Imports without torch.

`Predictor` turns rows into labels; `Slots` keeps two versions on disk; `Updater` installs signed models;
`open_installed` opens what is installed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
