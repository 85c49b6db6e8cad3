"""Inference on the device. Imports without torch.

`Predictor` turns rows into labels; `Slots` keeps two versions on disk; `install.updater` installs signed models;
`install.installed` opens what is installed.
"""

from fedinfer.inference.install.slots import SlotInfo as SlotInfo
from fedinfer.inference.install.slots import Slots as Slots
from fedinfer.inference.predict.answers import Naming as Naming
from fedinfer.inference.predict.answers import Prediction as Prediction
from fedinfer.inference.predict.answers import Predictions as Predictions
from fedinfer.inference.predict.predictor import Predictor as Predictor
from fedinfer.inference.predict.session import SessionCache as SessionCache
